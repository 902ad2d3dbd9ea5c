"""What a reader is, of images with captions and of sentences."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from captioner.texts import Ids
from captioner.types import CaptionedImage, TextPair

VALIDATION_NAMES = ("dev", "val", "valid", "validation")
"""What data sets call the split on which one chooses; asking for any of them gets the one that is there."""


def find_split(wanted: str, splits: Sequence[str], where: str) -> str:
    """The name of a split among those that there are; "dev", "val", "valid" and "validation" stand for one another.

    Args:
        wanted: the split asked for.
        splits: those that there are.
        where: the data set, for the error.

    Raises:
        ValueError: there is none of that name.
    """
    names = (wanted, *VALIDATION_NAMES) if wanted in VALIDATION_NAMES else (wanted,)
    for name in names:
        if name in splits:
            return name
    raise ValueError(f"{where}: no split {wanted!r}; there are: {', '.join(splits) or 'none'}")


def usual_split(splits: Sequence[str], where: str) -> str:
    """The split that is meant where none is named: the only one, or else the one to choose on.

    Raises:
        ValueError: there are several, and none of `VALIDATION_NAMES`.
    """
    return splits[0] if len(splits) == 1 else find_split("dev", splits, where)


def require_there(path: str | Path, argument: str) -> Path:
    """A file or folder that a reader was given.

    Args:
        path: where it should be.
        argument: the reader's argument that it was given as.

    Raises:
        FileNotFoundError: it is not there.
    """
    if not os.path.exists(path):
        raise FileNotFoundError(
            f"{path}: no such file or folder; name that of your data: --data.reader.{argument} in training, "
            f"or `{argument}` of the config's data.reader"
        )
    return Path(path)


class Reader(ABC):
    """A data set of images with captions.

    Attributes:
        layouts: what a folder of this data set looks like, a line for each form; empty where none is recognised.
    """

    layouts: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def find(cls, root: Path) -> Reader | None:
        """The reader of a folder that has one of `layouts`; None if it has none of them."""
        return None

    @property
    @abstractmethod
    def splits(self) -> tuple[str, ...]:
        """Names of the splits that can be read."""

    @abstractmethod
    def items(self, split: str) -> list[CaptionedImage]:
        """The images of one of `splits`, in the data set's order; `read` checks that their files exist."""

    def read(self, split: str, require_images: bool = True) -> list[CaptionedImage]:
        """Read one split: its images in the data set's order, each once, with all its captions.

        Captions lose their outer white space and empty ones are dropped; else they are as written.

        Args:
            split: one of `splits`; "dev", "val", "valid" and "validation" stand for one another.
            require_images: whether the image files must be there; features of them may be all that one has.

        Raises:
            ValueError: there is no such split, it is empty, or a file is malformed (the error names it).
            FileNotFoundError: a file or some of the images are missing (their number and the first are
                named).
        """
        name = find_split(split, self.splits, str(self))
        items = self.items(name)
        if not items:
            raise ValueError(f"{self}: split {name!r} holds no images")
        _require_distinct(items, str(self))
        if require_images:
            _require_images([item.path for item in items if isinstance(item.path, Path)], str(self))
        return items


class TextReader(ABC):
    """A data set of sentences with what they are to become."""

    @property
    @abstractmethod
    def splits(self) -> tuple[str, ...]:
        """Names of the splits that can be read."""

    @abstractmethod
    def items(self, split: str) -> list[TextPair]:
        """The pairs of one of `splits`, in the data set's order, each with a key of its own."""

    def read(self, split: str) -> list[TextPair]:
        """Read one split.

        Args:
            split: one of `splits`; "dev", "val", "valid" and "validation" stand for one another.

        Raises:
            ValueError: there is no such split, it is empty, or a file is malformed (the error names file and line).
            FileNotFoundError: a file is missing.
        """
        name = find_split(split, self.splits, str(self))
        items = self.items(name)
        if not items:
            raise ValueError(f"{self}: split {name!r} holds no sentences")
        _require_distinct(items, str(self))
        return items


def _require_distinct(items: Sequence[CaptionedImage | TextPair], where: str) -> None:
    """Raise unless each item has an id of its own: by its id it is scored."""
    keys = [item.key for item in items]
    if {*map(type, keys)} <= {int, str} and len({*map(str, keys)}) == len(keys):
        return
    ids = Ids("image" if isinstance(items[0], CaptionedImage) else "pair")
    for number, item in enumerate(items):
        ids.add(item.key, f"{where}: {item.path if isinstance(item, CaptionedImage) else f'pair {number}'}")


def _require_images(paths: list[Path], where: str) -> None:
    """Raise unless all files exist. Each folder is listed once: COCO's 118,000 files need no look at each."""
    folders = {path.parent for path in paths}
    listed = {folder: set(os.listdir(folder)) if folder.is_dir() else set() for folder in folders}
    missing = [path for path in paths if path.name not in listed[path.parent] and not path.is_file()]
    if missing:
        count = f"{len(missing):,} of {len(paths):,} images"
        folder = "" if missing[0].parent.is_dir() else f"; there is no folder {missing[0].parent}"
        raise FileNotFoundError(f"{where}: {count} are missing, the first: {missing[0]}{folder}")
