"""Any folder of images with a file of captions."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from captioner.data.images import IMAGE_SUFFIXES
from captioner.data.readers.base import Reader, require_there
from captioner.data.readers.parsing import cleaned, folder_holding
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
        root = require_there(self.root, "root")
        names = CAPTION_FILES if self.file is None else (self.file,)
        for name in names:
            if (root / name).is_file():
                return root / name
        raise FileNotFoundError(f"{root}: there is no {' or '.join(names)} in this folder")


Row = tuple[str, str, list[str], str]
"""One row of a captions file: its place for errors, the image, its captions, its split ("" for none)."""


def _table_rows(path: Path) -> Iterator[Row]:
    with text_file(path) as file:
        header_line, *lines = [*file] or [""]
    delimiter = max(",\t;|", key=header_line.count)
    try:
        header = [name.strip().lower() for name in next(csv.reader([header_line], delimiter=delimiter), [])]
    except csv.Error as error:
        raise ValueError(f"{path}, line 1: malformed: {error}") from None
    image = header.index(_column(header, IMAGE_COLUMNS, f"{path}, line 1"))
    caption = header.index(_column(header, CAPTION_COLUMNS, f"{path}, line 1"))
    split = header.index(_column(header, ("split",), f"{path}, line 1")) if "split" in header else None
    for number, values in _cells(path, lines, delimiter, len(header), image):
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


def _cells(path: Path, lines: Sequence[str], delimiter: str, width: int, image: int) -> list[tuple[int, list[str]]]:
    """The rows below a table's header, each with the number of its last line.

    Cells may stand in double quotes. A table by tabs or | in which quotes do not fit was written without quoting, as
    Flickr30k's is.
    """
    is_new = True  # whether the next line begins a row; else a cell in quotes goes on in it

    def fed() -> Iterator[str]:
        nonlocal is_new
        for line in lines:
            if not is_new:
                cells = line.split(delimiter)
                if len(cells) == width and Path(cells[image].strip()).suffix.lower() in IMAGE_SUFFIXES:
                    raise csv.Error("a double quote is not closed before the next row")
            is_new = False
            yield line

    reader = csv.reader(fed(), delimiter=delimiter, skipinitialspace=True, strict=True)
    rows: list[tuple[int, list[str]]] = []
    try:
        for values in reader:
            rows.append((reader.line_num + 1, values))
            is_new = True
        return rows
    except csv.Error as error:
        if delimiter in ",;":
            where = f"{path}, line {rows[-1][0] + 1 if rows else 2}"
            advice = "a caption that holds double quotes stands in double quotes itself, and each of its own is doubled"
            raise ValueError(f"{where}: malformed: {error}; {advice}") from None
    return [
        (number, [cell.lstrip(" ") for cell in line.rstrip("\r\n").split(delimiter)])
        for number, line in enumerate(lines, 2)
    ]


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
        names = [name.lower() for name in row]
        name, captions = (_column(names, choices, where) for choices in (IMAGE_COLUMNS, CAPTION_COLUMNS))
        row = dict(zip(names, row.values(), strict=True))
        texts = [row[captions]] if isinstance(row[captions], str) else row[captions]
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"{where}: the caption is neither a text nor a list of texts")
        split = row.get("split") or ""
        if not isinstance(split, str):
            raise ValueError(f"{where}: the split is not a text but {split!r}")
        texts = [caption_text(text, where) for text in texts]
        yield where, _image_name(row[name], where), texts, split.strip()


def _column(names: Sequence[str], choices: tuple[str, ...], where: str) -> str:
    """The first of some columns that is there."""
    for choice in choices:
        if names.count(choice) > 1:
            raise ValueError(f"{where}: {names.count(choice)} columns are called {choice!r}; rename all but one")
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
