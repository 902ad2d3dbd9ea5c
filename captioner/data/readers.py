"""Readers: from a data set's own files to a list of `CaptionedImage`.

A reader says which splits there are and reads one of them. `find_reader` recognises a folder's layout. To add
a data set, write a subclass of `Reader` with `splits` and `items`; nothing else changes.
"""

from __future__ import annotations

import contextlib
import csv
import glob
import hashlib
import io
import json
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from captioner.types import CaptionedImage

VALIDATION_NAMES = ("dev", "val", "valid", "validation")
"""What data sets call the split on which one chooses; asking for any of them gets the one that is there."""

FLICKR8K_IMAGES = "Flicker8k_Dataset"  # sic: the authors' own spelling
FLICKR8K_TEXT = "Flickr8k_text"
CAPTION_FILES = ("captions.csv", "captions.jsonl", "captions.tsv", "captions.txt")
IMAGE_COLUMNS = ("image", "file", "filename", "file_name", "path", "image_path", "image_name", "image_id")
CAPTION_COLUMNS = ("caption", "captions", "text", "sentence", "comment")


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


class Reader(ABC):
    """A data set of images with captions."""

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
        if require_images:
            _require_images([item.path for item in items if isinstance(item.path, Path)])
        return items


@dataclass(frozen=True)
class Flickr8k(Reader):
    """Flickr8k in its official files (Hodosh, Young and Hockenmaier 2013).

    `Flicker8k_Dataset/` holds the images; `Flickr8k.token.txt` and the lists
    `Flickr_8k.{train,dev,test}Images.txt` lie in `Flickr8k_text/` or beside it. The splits are those whose
    list is there.

    Attributes:
        root: the folder that holds `Flicker8k_Dataset`.
    """

    root: str | Path

    @property
    def splits(self) -> tuple[str, ...]:
        """Those of train, dev and test whose list is there."""
        return tuple(split for split in ("train", "dev", "test") if self._list_of(split).is_file())

    def items(self, split: str) -> list[CaptionedImage]:
        """The listed images; captions of images in no list (the official file has some) are left out."""
        captions: dict[str, list[str]] = {}
        for where, line in _lines(self._text_folder() / "Flickr8k.token.txt"):
            match = re.fullmatch(r"(.+)#\d+\t(.*)", line)
            if match is None:
                raise ValueError(f"{where}: not of the form 'image.jpg#0<tab>caption': {line[:80]!r}")
            captions.setdefault(match[1], []).append(match[2])
        names = dict.fromkeys(line.strip() for _, line in _lines(self._list_of(split)))
        folder = Path(self.root) / FLICKR8K_IMAGES
        return [CaptionedImage(name, folder / name, _cleaned(captions.get(name, []))) for name in names]

    def _list_of(self, split: str) -> Path:
        return self._text_folder() / f"Flickr_8k.{split}Images.txt"

    def _text_folder(self) -> Path:
        folder = Path(self.root) / FLICKR8K_TEXT
        return folder if folder.is_dir() else Path(self.root)


@dataclass(frozen=True)
class CocoCaptions(Reader):
    """Captions in COCO's JSON format, read with pycocotools.

    Attributes:
        annotations: for each split, its JSON file ({"train": "annotations/captions_train2017.json", ...}).
        images: for each split, the folder of its images ({"train": "train2017", ...}).
    """

    annotations: dict[str, str]
    images: dict[str, str]

    def __post_init__(self) -> None:
        if set(self.annotations) != set(self.images):
            both = f"{list(self.annotations)} and {list(self.images)}"
            raise ValueError(f"annotations and images must name the same splits, not {both}")

    @property
    def splits(self) -> tuple[str, ...]:
        """The keys of `annotations`."""
        return tuple(self.annotations)

    def items(self, split: str) -> list[CaptionedImage]:
        """The images of a split by COCO's integer ids; none has captions in a file without annotations."""
        path = Path(self.annotations[split])
        folder = Path(self.images[split])
        items = []
        with _expecting("COCO's caption format", path):
            coco = _load_coco(path)
            for image_id, image in coco.imgs.items():
                captions = _cleaned(note["caption"] for note in coco.imgToAnns.get(image_id, ()))
                items.append(CaptionedImage(image_id, folder / image["file_name"], captions))
        return items


@dataclass(frozen=True)
class KarpathySplit(Reader):
    """Karpathy's split of Flickr8k, Flickr30k or COCO: `dataset_{flickr8k,flickr30k,coco}.json`.

    Attributes:
        annotations: the JSON file.
        images: the folder of the images; COCO's have their own `train2014` and `val2014` within it.
        restval: whether "train" takes in "restval", the part of COCO's validation images that is in neither
            "val" nor "test", as is the custom; else it is a split of its own.
    """

    annotations: str | Path
    images: str | Path
    restval: bool = True

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits of the format."""
        return ("train", "val", "test") if self.restval else ("train", "val", "test", "restval")

    def items(self, split: str) -> list[CaptionedImage]:
        """The images of a split, by COCO's integer ids where there are any, else by file name."""
        wanted = {"train", "restval"} if split == "train" and self.restval else {split}
        path, folder = Path(self.annotations), Path(self.images)
        items = []
        with _expecting("Karpathy's format", path):
            for entry in _load_json(path)["images"]:
                if entry["split"] in wanted:
                    image_id = entry.get("cocoid", entry["filename"])
                    captions = _cleaned(sentence["raw"] for sentence in entry["sentences"])
                    items.append(CaptionedImage(image_id, folder / _karpathy_file(entry), captions))
        return items


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
            folder = _folder_holding(Path(self.root), next(iter(captions), "")) or Path(self.root)
        return [CaptionedImage(name, folder / name, _cleaned(captions[name])) for name in names]

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


def find_reader(path: str | Path) -> Reader:
    """The reader for a folder, by its layout: the first of `LAYOUTS` that it has.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: its layout is none of them; the error lists them.
    """
    root = Path(path)
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder of data")
    for finder in (_find_flickr8k, _find_coco, _find_karpathy, _find_captions_file, _find_shards):
        reader = finder(root)
        if reader is not None:
            return reader
    layouts = "\n".join(f"  {layout}" for layout in LAYOUTS)
    raise ValueError(f"{root}: not a data set in a layout that is known. These are:\n{layouts}")


LAYOUTS = (
    f"Flickr8k: {FLICKR8K_IMAGES}/ and {FLICKR8K_TEXT}/ (Flickr8k.token.txt, Flickr_8k.trainImages.txt, ...)",
    "COCO: annotations/captions_NAME.json and the images in NAME/ or images/NAME/ (as train2017, val2017)",
    "COCO in small: captions.json and images/",
    "Karpathy's split: dataset_NAME.json, and the images beside it or in a folder beside it",
    f"captions of your own: {' or '.join(CAPTION_FILES)}, and the images beside it or in a folder beside it",
    "shards: SPLIT-000000.tar, SPLIT-000001.tar, ... with their indices (`captioner shards` makes both)",
)
"""What `find_reader` looks for, in this order."""


def _find_flickr8k(root: Path) -> Reader | None:
    reader = Flickr8k(str(root))
    return reader if (root / FLICKR8K_IMAGES).is_dir() and reader.splits else None


def _find_coco(root: Path) -> Reader | None:
    annotations, images = {}, {}
    for path in sorted(root.glob("annotations/captions_*.json")):
        name = path.stem.removeprefix("captions_")
        for folder in (root / name, root / "images" / name):
            if folder.is_dir():
                annotations[name], images[name] = str(path), str(folder)
                break
    short = {name: re.sub(r"20\d\d$", "", name) for name in annotations}  # train2017 -> train
    if len(set(short.values())) < len(short):
        short = {name: name for name in annotations}  # two years in one folder: their full names
    if annotations:
        return CocoCaptions(
            annotations={short[name]: path for name, path in annotations.items()},
            images={short[name]: path for name, path in images.items()},
        )
    if (root / "captions.json").is_file() and (root / "images").is_dir():
        return CocoCaptions({"all": str(root / "captions.json")}, {"all": str(root / "images")})
    return None


def _find_karpathy(root: Path) -> Reader | None:
    for path in sorted(root.glob("dataset_*.json")):  # Karpathy's archive holds three of them
        with _expecting("Karpathy's format", path):
            folder = _folder_holding(root, _karpathy_file(_load_json(path)["images"][0]))
        if folder is not None:
            return KarpathySplit(str(path), str(folder))
    return None


def _find_captions_file(root: Path) -> Reader | None:
    return CaptionFolder(str(root)) if any((root / name).is_file() for name in CAPTION_FILES) else None


def _find_shards(root: Path) -> Reader | None:
    from captioner.data.shard_sets import Shards, index_place  # which builds on this module

    shards = {}
    for path in sorted(root.glob("*.tar")):
        name = re.fullmatch(r"(?:(.+)-)?\d+", path.stem)
        if name and Path(index_place(str(path))).is_file():
            split = name[1] or "all"
            pattern = f"{split}-[0-9]*.tar" if name[1] else "[0-9]*.tar"
            shards[split] = os.path.join(glob.escape(str(root)), pattern)
    return Shards(shards) if shards else None


# ---------------------------------------------------------------------------------- what readers share


def _cleaned(captions: Iterable[str]) -> tuple[str, ...]:
    stripped = (caption.strip() for caption in captions)
    return tuple(caption for caption in stripped if caption)


def _require_images(paths: list[Path]) -> None:
    """Raise unless all files exist. Each folder is listed once: COCO's 118,000 files need no look at each."""
    folders = {path.parent for path in paths}
    listed = {folder: set(os.listdir(folder)) if folder.is_dir() else set() for folder in folders}
    missing = [path for path in paths if path.name not in listed[path.parent] and not path.is_file()]
    if missing:
        count = f"{len(missing):,} of {len(paths):,} images"
        raise FileNotFoundError(f"{count} are missing, the first: {missing[0]}")


def _folder_holding(root: Path, name: str) -> Path | None:
    """`root` or the first folder in it, by name, that holds the file."""
    folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    return next((folder for folder in [root, *folders] if (folder / name).is_file()), None)


@contextlib.contextmanager
def _text_file(path: Path) -> Iterator[io.TextIOBase]:
    """A UTF-8 file, with or without a byte-order mark; an error in reading it names it."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            yield file
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from error


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """The lines that are not blank, each with its place for errors."""
    with _text_file(path) as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield f"{path}, line {number}", line.rstrip("\r\n")


@contextlib.contextmanager
def _expecting(format: str, path: Path) -> Iterator[None]:
    """Turns the stumbling over a file of another form into an error that names the file."""
    try:
        yield
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        what = f"an entry lacks {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"{path}: not in {format}: {what}") from error


def _load_json(path: Path) -> Any:
    try:
        with _text_file(path) as file:
            return json.load(file)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: malformed JSON: {error}") from error


def _load_coco(path: Path) -> Any:
    from pycocotools.coco import COCO  # type: ignore[import-untyped]  # slow to import

    coco = COCO()
    coco.dataset = _load_json(path)
    coco.dataset["images"]  # pycocotools would take a file without images for an empty one
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
        coco.createIndex()
    return coco


def _karpathy_file(entry: dict[str, Any]) -> str:
    """An image's file within the images' folder: COCO's entries name a folder too."""
    return str(Path(entry.get("filepath", ""), entry["filename"]))


Row = tuple[str, str, list[str], str]
"""One row of a captions file: its place for errors, the image, its captions, its split ("" for none)."""


def _table_rows(path: Path) -> Iterator[Row]:
    with _text_file(path) as file:
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
    for where, line in _lines(path):
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
