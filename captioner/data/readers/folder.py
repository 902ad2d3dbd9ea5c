"""Any folder of images with a file of captions."""

from __future__ import annotations

import csv
import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import ClassVar, NamedTuple

from captioner.data.images import IMAGE_SUFFIXES
from captioner.data.readers.base import Reader, require_there
from captioner.data.readers.parsing import cleaned, folder_holding, image_folders
from captioner.texts import caption_text, numbered_lines, parse_json, text_file
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
    may lie anywhere. In a table by tabs or | with double quotes that do not fit, they are part of the captions.

    A column "split" gives the splits. Without one, "dev" is a fixed share of the images, picked by a hash of
    each one's name, so that more images or another order move none of them, and "train" is the rest. "all" is
    always there too.

    Attributes:
        root: the folder.
        file: the captions' file in it; by default the first of `CAPTION_FILES` that is there.
        images: the folder within `root` that the images' paths start from; by default `root` itself or, where
            the first image is not in it, the first folder in `root` that holds that image. If none does, the next
            image decides.
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
            folder = folder_holding(Path(self.root), captions) or Path(self.root)
        return [CaptionedImage(name, folder / name, cleaned(captions[name])) for name in names]

    def _table(self) -> tuple[dict[str, list[str]], dict[str, str]]:
        """Each image's captions and its split, in the file's order."""
        path = self._captions_file()
        is_json = path.suffix.lower() in (".jsonl", ".ndjson")
        rows = _json_rows(path) if is_json else _table_rows(path, self._finder())
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

    def _finder(self) -> Callable[[str], bool]:
        """What tells whether there is an image of some name; the folders are listed once it is asked."""

        @cache
        def folders() -> list[Path]:
            root = Path(self.root)
            return image_folders(root) if self.images is None else [root / self.images]

        return lambda name: any(os.path.isfile(folder / name) for folder in folders())

    def _captions_file(self) -> Path:
        root = require_there(self.root, "root")
        names = CAPTION_FILES if self.file is None else (self.file,)
        for name in names:
            if (root / name).is_file():
                return root / name
        raise FileNotFoundError(f"{root}: there is no {' or '.join(names)} in this folder")


Row = tuple[str, str, list[str], str]
"""One row of a captions file: its place for errors, the image, its captions, its split ("" for none)."""


class _Layout(NamedTuple):
    """How a table's rows are written."""

    delimiter: str
    width: int  # cells of a row
    image: int  # of them, the one that names the image
    caption: int


def _table_rows(path: Path, is_there: Callable[[str], bool]) -> Iterator[Row]:
    with text_file(path) as file:
        header_line, *lines = [*file] or [""]
    delimiter = max(",\t;|", key=header_line.count)
    try:
        header = [name.strip().lower() for name in next(csv.reader([header_line], delimiter=delimiter), [])]
    except csv.Error as error:
        raise ValueError(f"{path}, line 1: {_malformed(error, [header_line])}") from None
    image = header.index(_column(header, IMAGE_COLUMNS, f"{path}, line 1"))
    caption = header.index(_column(header, CAPTION_COLUMNS, f"{path}, line 1"))
    split = header.index(_column(header, ("split",), f"{path}, line 1")) if "split" in header else None
    for number, values in _cells(path, lines, _Layout(delimiter, len(header), image, caption), is_there):
        where = f"{path}, line {number}"
        if not any(value.strip() for value in values):
            continue
        if len(values) != len(header):
            raise ValueError(f"{where}: {_miscounted(values, len(header), delimiter)}")
        yield (
            where,
            _image_name(values[image], where),
            [values[caption]],
            "" if split is None else values[split].strip(),
        )


def _cells(
    path: Path, lines: Sequence[str], layout: _Layout, is_there: Callable[[str], bool]
) -> list[tuple[int, list[str]]]:
    """The rows below a table's header, each with the number of its last line.

    Cells may stand in double quotes. A table by tabs or | in which quotes do not fit was written without quoting, as
    Flickr30k's is.
    """
    reader = csv.reader(lines, delimiter=layout.delimiter, skipinitialspace=True, strict=True)
    rows: list[tuple[int, list[str]]] = []
    joined: list[tuple[int, int, str]] = []  # rows of several lines: the first, the one after the last, the image
    first = 0
    try:
        for values in reader:
            if reader.line_num > first + 1 and len(values) == layout.width:
                joined.append((first, reader.line_num, values[layout.image].strip()))
            rows.append((reader.line_num + 1, values))
            first = reader.line_num
        names = {values[layout.image].strip() for _, values in rows if len(values) == layout.width}
        is_even = all(line.count(layout.delimiter) == layout.width - 1 for line in lines if line.strip())
        any_word = layout.delimiter in "\t|" and is_even
        for first, end, name in joined:  # the error names the line `first`
            if _swallows_rows(lines[first:end], name, layout, names, is_there, any_word and not is_there(name)):
                raise csv.Error("a double quote is not closed before the next row")
        return rows
    except csv.Error as error:
        if layout.delimiter in ",;":
            broken = lines[first : reader.line_num]
            raise ValueError(f"{path}, line {first + 2}: {_malformed(error, broken)}") from None
    return [
        (number, [cell.lstrip(" ") for cell in line.rstrip("\r\n").split(layout.delimiter)])
        for number, line in enumerate(lines, 2)
    ]


def _swallows_rows(
    lines: Sequence[str],
    name: str,
    layout: _Layout,
    names: set[str],
    is_there: Callable[[str], bool],
    any_word: bool,
) -> bool:
    """Whether lines that a cell in double quotes joins into one row are rows of their own.

    They are if two of them name images. A caption that holds line breaks has its image's name once, even if the rest
    of it has separators.

    Args:
        lines: the lines of the row.
        name: its image.
        layout: of the table.
        names: the images of all rows.
        is_there: whether there is an image of some name.
        any_word: whether any one word may be a name; so it is in a table by tabs or | that can be read without
            quoting, if there is no image to go by.
    """
    place = layout.image if layout.image < layout.caption else layout.image - layout.width
    rows = [line.rstrip("\r\n").split(layout.delimiter) for line in lines if line.strip()]
    cells = [row[place].strip() for row in rows if len(row) >= layout.width]
    named = (cell in names or _is_like(cell, name, any_word) or is_there(cell) for cell in cells if cell)
    return sum(named) > 1


def _is_like(cell: str, name: str, any_word: bool) -> bool:
    """Whether a cell looks like an image's name: by its suffix; or, without one, as 4 and x_4 are like 17 and x_17.

    Args:
        cell: the cell.
        name: an image's name.
        any_word: whether any one word is like a name without a suffix.
    """
    suffix = Path(cell).suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        return True
    if suffix or Path(name).suffix:
        return suffix == Path(name).suffix.lower()
    return re.sub(r"\d+", "0", cell) == re.sub(r"\d+", "0", name) or (any_word and bool(re.fullmatch(r'[^\s"]+', cell)))


def _malformed(error: csv.Error, lines: Sequence[str]) -> str:
    """What is wrong with a row that cannot be read, and what to do."""
    limit = csv.field_size_limit()
    if "field limit" in str(error) and max(map(len, lines)) > limit:  # else a quote is open through many lines
        return (
            f"a cell of more than {limit:,} characters, the most that one in a table may have: shorten it, or write "
            "the captions as .jsonl, which has no limit"
        )
    advice = "a caption that holds double quotes stands in double quotes itself, and each of its own is doubled"
    return f"malformed: {error}; {advice}"


def _miscounted(values: Sequence[str], width: int, delimiter: str) -> str:
    """What is wrong with a row that has more or fewer cells than the header."""
    row = f"{delimiter.join(values):.80}"
    if len(values) < width:
        advice = f"a cell is missing, or the {delimiter!r} before it, in {row!r}"
    else:
        advice = f"a caption that holds {delimiter!r} must stand in double quotes"
    return f"{len(values)} columns where the header has {width}; {advice}"


def _json_rows(path: Path) -> Iterator[Row]:
    for where, line in numbered_lines(path):
        row = parse_json(line, where)
        if not isinstance(row, dict):
            raise ValueError(f"{where}: not a JSON object: {line[:80]!r}")
        names = [name.strip().lower() for name in row]
        name, captions = (_column(names, choices, where) for choices in (IMAGE_COLUMNS, CAPTION_COLUMNS))
        row = dict(zip(names, row.values(), strict=True))
        texts = [row[captions]] if isinstance(row[captions], str) else row[captions]
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"{where}: the caption is neither a text nor a list of texts")
        split = (row[_column(names, ("split",), where)] if "split" in row else "") or ""
        if not isinstance(split, str):
            raise ValueError(f"{where}: the split is not a text but {split!r}")
        texts = [caption_text(text, where) for text in texts]
        yield where, _image_name(row[name], where), texts, split.strip()


def _column(names: Sequence[str], choices: tuple[str, ...], where: str) -> str:
    """The first of some columns that is there. "caption" and "captions" are one name."""
    for choice in choices:
        alike = [name for name in names if name in choices and name.removesuffix("s") == choice.removesuffix("s")]
        if len(alike) > 1:
            called = " and ".join(map(repr, dict.fromkeys(alike)))
            raise ValueError(f"{where}: {len(alike)} columns are called {called}; rename all but one")
        if choice in names:
            return choice
    raise ValueError(f"{where}: no column {' or '.join(choices)}; there are: {', '.join(names) or 'none'}")


def _image_name(name: object, where: str) -> str:
    if not isinstance(name, str) or not name.strip() or "\0" in name:
        raise ValueError(f"{where}: the image's name is missing or no text: {name!r}")
    return name.strip()


def _hashed_splits(names: Iterable[str], dev_fraction: float) -> dict[str, str]:
    """Each image's split by a hash of its name: "train" or "dev", which gets at least one image of two."""
    hashes = {
        name: int(hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:12], 16) / 16**12 for name in names
    }
    dev = {name for name, value in hashes.items() if value < dev_fraction}
    if not dev and dev_fraction > 0 and len(hashes) > 1:
        dev = {min(hashes, key=hashes.__getitem__)}
    return {name: "dev" if name in dev else "train" for name in hashes}
