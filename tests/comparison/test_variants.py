"""The variants of a config."""

from __future__ import annotations

import pytest

from captioner.comparison import find_variants


def test_variants_are_the_config_and_the_files_beside_it(config):
    variants = find_variants(config)
    assert [(v.label, v.group, v.name, len(v.configs)) for v in variants] == [
        ("first", "", "tiny/tiny", 1),
        ("alone", "", "tiny/alone", 2),
        ("blind", "group", "tiny/blind", 2),
    ]


def test_two_variants_of_one_name_are_refused(config):
    (config.with_suffix("") / "other").mkdir()
    (config.with_suffix("") / "other" / "alone.yaml").write_text("trainer: {max_epochs: 3}")
    with pytest.raises(ValueError, match="two variants are called alone"):
        find_variants(config)
