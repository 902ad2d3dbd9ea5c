"""Any folder of images with a file of captions."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from captioner.data.readers.base import Reader
from captioner.data.readers.parsing import cleaned, folder_holding, numbered_lines, text_file
from captioner.types import CaptionedImage

CAPTION_FILES = ("captions.csv", "captions.jsonl", "captions.tsv", "captions.txt")
IMAGE_COLUMNS = ("image", "file", "filename", "file_name", "path", "image_path", "image_name", "image_id")
CAPTION_COLUMNS = ("caption", "captions", "text", "sentence", "comment")


@dataclass(frozen=True)
class CaptionFolder(Reader):
    """Any folder of images with one file of captions.

    The file is a table with a header line and one caption per row (CSV, or split by tabs, semicolons or |),
    or JSONL with one object per line, whose "caption" may also be a list, "captions". Column names, in any
    case: `IMAGE_COLUMNS` for the image's path and `CAPTION_COLUMNS` for the caption; the rows of one image
    may lie anywhere.

    A column "split" gives the splits. Without one, "dev" is a fixed share of the images, picked by a hash of
    each one's name, so that more images or another order move none of them, and "train" is the rest. "all" is
    always there too.

    Attributes:
        root: the folder.
        file: the captions' file in it; by default the first of `CAPTION_FILES` that is there.
        images: the folder within `root` that the images' paths start from; by default `root` itself or, where
            the first image is not in it, the first folder in `root` that holds that image.
        dev_fraction: share of the images in "dev" where the file has no splits; 0 for no "dev".
    """

    root: str | Path
    file: str | None = None
    images: str | None = None
    dev_fraction: float = 0.1
    layouts: ClassVar[tuple[str, ...]] = (
        f"captions of your own: {' or '.join(CAPTION_FILES)}, and the images beside it or in a folder beside it",
    )

    @classmethod
    def find(cls, root: Path) -> Reader | None:
        """See `Reader.find`."""
        return cls(str(root)) if any((root / name).is_file() for name in CAPTION_FILES) else None

    def __post_init__(self) -> None:
        if not 0 <= self.dev_fraction < 1:
            raise ValueError(f"dev_fraction must be at least 0 and less than 1, not {self.dev_fraction}")

    @property
    def splits(self) -> tuple[str, ...]:
        """The file's own splits in order of appearance, or train and dev; then "all"."""
        _, split_of = self._table()
        return tuple(dict.fromkeys([*split_of.values(), "all"]))

    def items(self, split: str) -> list[CaptionedImage]:
        """The images of a split, by their paths as written in the file."""
        captions, split_of = self._table()
        names = [name for name in captions if split in ("all", split_of[name])]
        if self.images is not None:
            folder = Path(self.root) / self.images
        else:
            folder = folder_holding(Path(self.root), next(iter(captions), "")) or Path(self.root)
        return [CaptionedImage(name, folder / name, cleaned(captions[name])) for name in names]

    def _table(self) -> tuple[dict[str, list[str]], dict[str, str]]:
        """Each image's captions and its split, in the file's order."""
        path = self._captions_file()
        rows = _json_rows(path) if path.suffix.lower() in (".jsonl", ".ndjson") else _table_rows(path)
        captions: dict[str, list[str]] = {}
        split_of: dict[str, str] = {}
        for where, name, texts, split in rows:
            if split_of.setdefault(name, split) != split:
                raise ValueError(f"{where}: {name!r} has split {split!r} here, {split_of[name]!r} above")
            captions.setdefault(name, []).extend(texts)
        if not any(split_of.values()):
            split_of = _hashed_splits(captions, self.dev_fraction)
        elif "" in split_of.values():
            name = next(name for name, split in split_of.items() if not split)
            raise ValueError(f"{path}: {name!r} has no split, and others have")
        return captions, split_of

    def _captions_file(self) -> Path:
        root = Path(self.root)
        names = CAPTION_FILES if self.file is None else (self.file,)
        for name in names:
            if (root / name).is_file():
                return root / name
        raise FileNotFoundError(f"{root}: there is no {' or '.join(names)} in this folder")


Row = tuple[str, str, list[str], str]
"""One row of a captions file: its place for errors, the image, its captions, its split ("" for none)."""


def _table_rows(path: Path) -> Iterator[Row]:
    with text_file(path) as file:
        header_line = file.readline()
        delimiter = max(",\t;|", key=header_line.count)
        header = [name.strip().lower() for name in next(csv.reader([header_line], delimiter=delimiter), [])]
        image = _column(header, IMAGE_COLUMNS, f"{path}, line 1")
        caption = _column(header, CAPTION_COLUMNS, f"{path}, line 1")
        split = "split" if "split" in header else None
        rows = csv.reader(file, delimiter=delimiter, skipinitialspace=True, strict=True)
        try:
            for values in rows:
                where = f"{path}, line {rows.line_num + 1}"  # the header was read before
                if not any(value.strip() for value in values):
                    continue
                if len(values) != len(header):
                    raise ValueError(
                        f"{where}: {len(values)} columns where the header has {len(header)}; "
                        f"a caption that holds {delimiter!r} must stand in double quotes"
                    )
                row = dict(zip(header, values, strict=True))
                split_name = row[split].strip() if split else ""
                yield where, _image_name(row[image], where), [row[caption]], split_name
        except csv.Error as error:
            raise ValueError(f"{path}, line {rows.line_num + 1}: malformed: {error}") from error


def _json_rows(path: Path) -> Iterator[Row]:
    for where, line in numbered_lines(path):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{where}: malformed JSON: {error}") from error
        if not isinstance(row, dict):
            raise ValueError(f"{where}: not a JSON object: {line[:80]!r}")
        row = {name.lower(): value for name, value in row.items()}
        name = row[_column(row, IMAGE_COLUMNS, where)]
        captions = row[_column(row, CAPTION_COLUMNS, where)]
        captions = [captions] if isinstance(captions, str) else captions
        if not isinstance(captions, list) or not all(isinstance(caption, str) for caption in captions):
            raise ValueError(f"{where}: the caption is neither a text nor a list of texts")
        split = row.get("split") or ""
        if not isinstance(split, str):
            raise ValueError(f"{where}: the split is not a text but {split!r}")
        yield where, _image_name(name, where), captions, split.strip()


def _column(names: Iterable[str], choices: tuple[str, ...], where: str) -> str:
    names = list(names)
    for choice in choices:
        if choice in names:
            return choice
    raise ValueError(f"{where}: no column {' or '.join(choices)}; there are: {', '.join(names) or 'none'}")


def _image_name(name: object, where: str) -> str:
    if not isinstance(name, str) or not name.strip():
        raise ValueError(f"{where}: the image's name is missing or no text: {name!r}")
    return name.strip()


def _hashed_splits(names: Iterable[str], dev_fraction: float) -> dict[str, str]:
    """Each image's split by a hash of its name: "train" or "dev", which gets at least one image of two."""
    hashes = {name: int(hashlib.sha256(name.encode()).hexdigest()[:12], 16) / 16**12 for name in names}
    dev = {name for name, value in hashes.items() if value < dev_fraction}
    if not dev and dev_fraction > 0 and len(hashes) > 1:
        dev = {min(hashes, key=hashes.__getitem__)}
    return {name: "dev" if name in dev else "train" for name in hashes}
