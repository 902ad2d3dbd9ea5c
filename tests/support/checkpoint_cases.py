"""Models to save, and what they say."""

from __future__ import annotations

from pathlib import Path

import pytest

from captioner.checkpoint import CheckpointError, load_model


def refused(path: Path, data: bytes, match: str) -> None:
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=match) as caught:
        load_model(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
