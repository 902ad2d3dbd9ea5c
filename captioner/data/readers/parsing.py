"""What readers share beside `captioner.texts`: captions without white space, the folder of the images."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from captioner.texts import field


def cleaned(captions: Iterable[str]) -> tuple[str, ...]:
    """Captions without their outer white space; empty ones are left out."""
    stripped = (caption.strip() for caption in captions)
    return tuple(caption for caption in stripped if caption)


def image_folders(root: Path) -> list[Path]:
    """Where a data set's images may lie: `root` and the folders in it, by name."""
    return [root, *sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))]


def folder_holding(root: Path, names: Iterable[str]) -> Path | None:
    """`root` or the first folder in it, by name, that holds the first of the files which is anywhere there."""
    folders = image_folders(root)
    return next((folder for name in names for folder in folders if (folder / name).is_file()), None)


def file_name(entry: Any, name: str, where: str) -> str:
    """The file's or folder's name that an object in a file holds.

    Raises:
        ValueError: it is not there, or not a text.
    """
    value = field(entry, name, where)
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise ValueError(f'{where}: "{name}" is {value!r:.100}; the name of a file is expected')
    return value
