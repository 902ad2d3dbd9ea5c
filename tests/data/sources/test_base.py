"""Sources of features know a photo by its file."""

from __future__ import annotations

from pathlib import Path

import pytest

from captioner.data.sources.base import as_item


@pytest.mark.parametrize("given", ["a/b.png", Path("a/b.png")])
def test_a_path_is_an_item(given):
    item = as_item(given)
    assert (item.key, item.path) == ("b.png", Path("a/b.png"))


def test_a_photo_in_memory_is_refused():
    with pytest.raises(TypeError, match="known by their photo's file: give paths, not bytes"):
        as_item(b"...")
