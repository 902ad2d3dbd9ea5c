"""A small comparison, on disk."""

from __future__ import annotations

from pathlib import Path

import pytest
from comparison_cases import NO_ATTENTION, TINY


@pytest.fixture
def config(tmp_path) -> Path:
    """A config, with a variant beside it and one in a group."""
    (tmp_path / "tiny" / "group").mkdir(parents=True)
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY.replace("PICTURES", str(tmp_path / "pictures")))
    (tmp_path / "tiny" / "group" / "blind.yaml").write_text(NO_ATTENTION)
    (tmp_path / "tiny" / "alone.yaml").write_text("trainer: {max_epochs: 2}\n")
    return path
