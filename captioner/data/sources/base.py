"""What sources of features share that were computed before: they are known by their photo's file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from captioner.types import CaptionedImage, PackedImage


def as_item(given: Any) -> CaptionedImage:
    """The photo that a user gives, as an item of a data set.

    Raises:
        TypeError: it is given in memory.
    """
    if not isinstance(given, str | Path | PackedImage):
        raise TypeError(f"features are known by their photo's file: give paths, not {type(given).__name__}")
    path = given if isinstance(given, PackedImage) else Path(given)
    return CaptionedImage(path.name, path)
