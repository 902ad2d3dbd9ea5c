"""The variants of a config."""

from __future__ import annotations

import pytest

from captioner.comparison import find_variants
from captioner.comparison.variants import digest_of


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


def test_a_digest_is_of_the_content(config):
    first, *_ = find_variants(config)
    digest = digest_of(first, [])
    config.write_text(config.read_text() + "# a comment\n")
    assert digest_of(first, []) == digest != digest_of(first, ["data.batch_size=3"])
    assert len(digest) == 16


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [1", "not a YAML file"),
        (b"a: b: c", "not a YAML file"),
        ("a: é".encode("latin-1"), "not UTF-8 text"),
        ("a: b".encode("utf-16"), "not UTF-8 text"),
        (b"{1: a, b: c}", "not a training config"),
        (b"a: &a [*a]", "not a training config"),
    ],
)
def test_configs_that_are_none_are_named(config, content, message):
    config.write_bytes(content)
    with pytest.raises(ValueError, match=rf"tiny\.yaml: {message}") as error:
        digest_of(find_variants(config)[0], [])
    assert "\n" not in str(error.value)


def test_a_config_may_hold_a_date(config):
    config.write_text("logger: {version: 2024-03-05}")
    assert digest_of(find_variants(config)[0], [])
