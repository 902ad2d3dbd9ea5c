"""Data sets in shards: where in a shard the images lie (its index), the reader of such a set, and the writer of one.

An index is a file of JSON lines, `SHARD.tar.jsonl`, beside its shard or in a folder of its own:

    {"format": 1, "num_bytes": 262144000, "num_images": 1850}
    {"image": "000000000.jpg", "offset": 512, "size": 134512, "image_id": 391895, "captions": ["a man ..."]}

With it all is known before the first image is read, as training needs it: how many images there are, and how long their
captions are; and each image is one read at an offset. So an epoch is exact, in one process or many, and what comes
when depends on (seed, epoch) alone. (WebDataset's own loaders go through shards from end to end: what an epoch is
over several processes is for their user to say, and a run that was cut off begins a shard anew.)
"""

from __future__ import annotations

import glob
import io
import json
import os
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from captioner.data.files import in_threads, whole_file
from captioner.data.images import IMAGE_SUFFIXES, ImageError
from captioner.data.readers import Reader
from captioner.data.shards import (
    MAX_BYTES,
    Copies,
    Shard,
    ShardImage,
    file_name,
    files_of,
    find_shards,
    is_image,
    is_remote,
    opened,
    reason_of,
)
from captioner.progress import progress_bar
from captioner.types import CaptionedImage

FORMAT = 1  # of an index
THREADS = 16  # that look at many shards at once


class ShardError(ValueError):
    """A shard or an index that is damaged, or does not fit what it is asked for."""


# ------------------------------------------------------------------------------------------ the index


class _Entry(NamedTuple):
    """An image in an index; the fields are those of a line."""

    image: str
    offset: int
    size: int
    image_id: int | str
    captions: list[str]


class _Index(NamedTuple):
    """What an index says of its shard."""

    num_bytes: int
    entries: list[_Entry]


class _File(NamedTuple):
    """A file in a shard; `text` is its content unless it is an image."""

    name: str
    offset: int
    size: int
    text: bytes


def index_place(url: str, folder: str | None = None) -> str:
    """Where a shard's index lies: beside it, or in a folder."""
    name = file_name(url)
    beside = url.partition("?")[0] if is_remote(url) else url
    return f"{beside}.jsonl" if folder is None else f"{folder.rstrip('/')}/{name}.jsonl"


def index_shard(url: str, folder: str | None = None) -> tuple[int, list[ImageError]]:
    """Write a shard's index, from one pass over it.

    A file's key is its name up to the first dot behind its folder. The files of one key are a sample. Its image is the
    first whose suffix is an image's, where KEY.jpg goes before KEY.mask.png. Its captions are "captions" or "caption"
    of KEY.json, a text or a list, or else the lines of KEY.txt; its id is "image_id" of KEY.json, or else the image's
    name behind the shard's.

    Args:
        url: a shard that is not compressed.
        folder: of the index; None for beside the shard, if that is not remote.

    Returns:
        The number of images; and an error for each file that was left out, as it makes no sense.

    Raises:
        ShardError: the shard cannot be read, is damaged or compressed, or two files of a sample have one suffix.
        OSError: the index cannot be written.
    """
    if not file_name(url).lower().endswith(".tar"):
        raise ShardError(f"{url}: a compressed tar gives no single image; unpack it, to train on it")
    place = index_place(url, folder)
    if is_remote(place):
        raise ShardError(f"{url}: an index is written to a disk of this machine: name a folder for it")
    problems: list[ImageError] = []
    samples: dict[str, dict[str, _File]] = {}  # by key and suffix
    try:
        with opened(url) as file:
            for member, content in files_of(file):
                where = f"{url}/{member.name}"
                key, suffix = _split(member.name)
                is_text = suffix in ("json", "txt")
                if not (is_text or is_image(member.name)):
                    continue
                if member.size > MAX_BYTES:
                    problems.append(ImageError(where, f"left out: has {member.size:,} bytes"))
                    continue
                if suffix in samples.setdefault(key, {}):
                    raise ShardError(f"{where}: the sample {key!r} has two files .{suffix}")
                text = content.read() if is_text else b""
                samples[key][suffix] = _File(member.name, member.offset_data, member.size, text)
            num_bytes = file.seek(0, os.SEEK_END)
    except ShardError:
        raise
    except Exception as error:  # each kind of storage has errors of its own
        raise ShardError(f"{url}: {reason_of(error)}") from error
    found = [_entry(url, sample, problems) for sample in samples.values()]
    entries = [entry for entry in found if entry is not None]
    _write_index(Path(place), _Index(num_bytes, entries))
    return len(entries), problems


def _split(name: str) -> tuple[str, str]:
    """A file's key and suffix."""
    folder, slash, file = name.rpartition("/")
    stem, _, suffix = file.partition(".")
    return f"{folder}{slash}{stem}", suffix.lower()


def _entry(url: str, sample: dict[str, _File], problems: list[ImageError]) -> _Entry | None:
    """An index's line of a sample; None where it has no image."""
    images = [(suffix.count("."), file) for suffix, file in sample.items() if is_image(file.name)]
    if not images:
        return None
    fewest, image = min(images, key=lambda dots_and_file: dots_and_file[0])
    for dots, other in images:
        if other is not image and dots == fewest:  # else it is a mask, a depth map or the like
            reason = f"left out: its sample has the image {image.name} already"
            problems.append(ImageError(f"{url}/{other.name}", reason))
    notes, lines = _texts(url, sample, problems)
    captions = notes.get("captions") or notes.get("caption") or lines
    captions = [captions] if isinstance(captions, str) else captions if isinstance(captions, list) else []
    captions = [caption.strip() for caption in captions if isinstance(caption, str)]
    image_id = notes.get("image_id")
    if not isinstance(image_id, int | str):
        image_id = f"{file_name(url)}/{image.name}"
    return _Entry(image.name, image.offset, image.size, image_id, [caption for caption in captions if caption])


def _texts(url: str, sample: dict[str, _File], problems: list[ImageError]) -> tuple[dict[str, Any], list[str]]:
    """What is in a sample's JSON file, and the lines of its text file."""
    notes, lines = {}, []
    try:
        if "json" in sample:
            found = json.loads(sample["json"].text)
            notes = found if isinstance(found, dict) else {}
    except (ValueError, RecursionError) as error:
        problems.append(ImageError(f"{url}/{sample['json'].name}", f"left out: {reason_of(error)}"))
    try:
        if "txt" in sample:
            lines = sample["txt"].text.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        problems.append(ImageError(f"{url}/{sample['txt'].name}", f"left out: {reason_of(error)}"))
    return notes, lines


def _write_index(path: Path, index: _Index) -> None:
    """Write an index, whole or not at all."""
    head = {"format": FORMAT, "num_bytes": index.num_bytes, "num_images": len(index.entries)}
    with whole_file(path) as file:
        for line in (head, *(entry._asdict() for entry in index.entries)):
            file.write(json.dumps(line).encode() + b"\n")


def _read_index(url: str, folder: str | None) -> _Index:
    """The index of a shard.

    Raises:
        FileNotFoundError: there is none.
        ShardError: it is damaged, or of a newer version.
    """
    place = index_place(url, folder)
    try:
        with opened(place) as file:
            head, *lines = map(json.loads, file.read().splitlines())
        if head["format"] > FORMAT:
            raise ShardError(f"{place}: made by a newer captioner: pip install --upgrade captioner")
        entries = [_Entry(**line) for line in lines]
        for entry in entries:
            if not isinstance(entry.image_id, int | str):
                raise ValueError(f"the image_id {entry.image_id!r} is neither a whole number nor a text")
        if len(entries) != head["num_images"]:
            raise ValueError(f"{len(entries):,} of {head['num_images']:,} lines")
        return _Index(head["num_bytes"], entries)
    except FileNotFoundError as error:
        command = f"captioner shards '{url}'" + ("" if folder is None else f" --output '{folder}'")
        raise FileNotFoundError(f"{place}: the shard has no index; this makes it: {command}") from error
    except ShardError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise ShardError(f"{place}: damaged ({reason_of(error)}), or not a shard's index; make it again") from error


# ------------------------------------------------------------------------------------------ a data set of shards


@dataclass(frozen=True)
class Shards(Reader):
    """Images in WebDataset's shards with their indices, on this disk or elsewhere; see the top of this file.

    `captioner shards` makes shards of any other data set, and indices for the shards of others.

    Attributes:
        shards: for each split, the pattern of its shards ({"train": "s3://bucket/train-{000000..000099}.tar"}), see
            `find_shards`.
        index: for each split, the folder of its shards' indices, a path or a URL; by default that of the shards.
        copies: a folder on this machine's disk to which a remote shard is copied before its images are read; it may be
            shared by processes and runs. By default each image is a request of its own.
        copies_gb: how much of that disk they may take, in 10^9 bytes; training reads from two or three times
            `data.open_shards` shards at a time.
    """

    shards: dict[str, str]
    index: dict[str, str] | None = None
    copies: str | None = None
    copies_gb: float = 50.0

    def __post_init__(self) -> None:
        if self.index is not None and set(self.index) - set(self.shards):
            raise ValueError(f"index names splits that shards does not: {list(self.index)} and {list(self.shards)}")

    @property
    def splits(self) -> tuple[str, ...]:
        """The keys of `shards`."""
        return tuple(self.shards)

    def items(self, split: str) -> list[CaptionedImage]:
        """The images of a split, shard after shard.

        Raises:
            FileNotFoundError: a shard has no index, or there is no shard.
            ShardError: an index is damaged, or an image's id comes twice.
        """
        folder = None if self.index is None else self.index.get(split)
        copies = None if self.copies is None else Copies(self.copies, int(self.copies_gb * 1e9))
        items: dict[int | str, CaptionedImage] = {}
        urls = find_shards(self.shards[split])
        for url, index in zip(urls, in_threads(lambda url: _read_index(url, folder), urls, THREADS), strict=True):
            shard = Shard(url, index.num_bytes, copies if is_remote(url) else None)
            for entry in index.entries:
                image = ShardImage(shard, entry.image, entry.offset, entry.size)
                item = CaptionedImage(entry.image_id, image, tuple(entry.captions))
                if items.setdefault(entry.image_id, item) is not item:
                    other = items[entry.image_id].path
                    raise ShardError(f"{image} and {other} are both called {entry.image_id!r}")
        return list(items.values())

    def read(self, split: str, require_images: bool = True) -> list[CaptionedImage]:
        """See `Reader.read`; the shards must have the length that their indices know."""
        items = super().read(split, require_images)
        if require_images:
            shards = list(dict.fromkeys(item.path.shard for item in items if isinstance(item.path, ShardImage)))
            lengths = in_threads(lambda shard: _num_bytes(shard.url), shards, THREADS)
            for shard, num_bytes in zip(shards, lengths, strict=True):
                if num_bytes is not None and num_bytes != shard.num_bytes:
                    raise ShardError(
                        f"{shard.url}: has {num_bytes:,} bytes, and had {shard.num_bytes:,} when it was indexed: "
                        f"`captioner shards` makes its index anew"
                    )
                if shard.copies is not None and shard.num_bytes > shard.copies.max_bytes:
                    raise ShardError(f"{shard.url}: {shard.num_bytes:,} bytes do not fit in copies_gb={self.copies_gb}")
        return items


def _num_bytes(url: str) -> int | None:
    """A shard's length; None where a server does not tell."""
    if not is_remote(url):
        return os.stat(url).st_size
    from fsspec.core import url_to_fs

    system, path = url_to_fs(url)
    return system.size(path)


# ------------------------------------------------------------------------------------------ writing


def write_shards(
    items: Iterable[CaptionedImage], folder: str | Path, name: str, max_bytes: int = 256_000_000
) -> tuple[list[Path], list[ImageError]]:
    """Pack the images of a data set into shards, with their indices; the same images make the same bytes.

    Args:
        items: the images; their files are packed as they are.
        folder: of the shards; made where it is missing.
        name: of the split: shards are called `NAME-000000.tar` and so on.
        max_bytes: images of a shard, in bytes; one that is larger has a shard of its own.

    Returns:
        The shards, and one error for each image that cannot be read; all others are in.

    Raises:
        ValueError: the folder holds shards of this name.
        OSError: there is no room, or the folder cannot be written to.
    """
    folder = Path(folder)
    there = sorted(folder.glob(f"{glob.escape(name)}-*.tar"))
    if there:
        raise ValueError(f"{there[0]} is there already: choose another folder, or delete the shards of this name")
    folder.mkdir(parents=True, exist_ok=True)
    items = list(items)
    problems: list[ImageError] = []
    with progress_bar("packing", len(items)) as bar, _Writer(folder, name, max_bytes) as writer:
        for item in items:
            try:
                writer.add(item)
            except ImageError as error:
                problems.append(error)
            bar.advance()
    return writer.shards, problems


class _Writer:
    """Fills shard after shard; each appears when it is whole."""

    def __init__(self, folder: Path, name: str, max_bytes: int) -> None:
        self.folder = folder
        self.name = name
        self.max_bytes = max_bytes
        self.num_images = 0
        self.num_bytes = 0  # in the shard that is open
        self.shards: list[Path] = []
        self.partial = folder / f".{name}.tar.part"
        self.archive: tarfile.TarFile | None = None

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        if kind is None:
            self._finish()
        elif self.archive is not None:
            self.archive.close()
        self.partial.unlink(missing_ok=True)

    def add(self, item: CaptionedImage) -> None:
        """Add an image with its captions.

        Raises:
            ImageError: it cannot be read, or its name does not say that it is an image.
        """
        suffix = os.path.splitext(item.path.name)[1].lower()
        if suffix not in IMAGE_SUFFIXES:
            raise ImageError(str(item.path), f"its name does not end as an image's: {suffix!r}")
        try:
            data = item.path.read_bytes()
        except OSError as error:
            raise ImageError(str(item.path), reason_of(error)) from error
        if self.num_bytes + len(data) > self.max_bytes:
            self._finish()
        if self.archive is None:
            self.archive = tarfile.open(self.partial, "w")  # noqa: SIM115 (closed by _finish)
        notes = {"image_id": item.image_id, "captions": list(item.captions), "file_name": item.path.name}
        for ending, content in ((suffix, data), (".json", json.dumps(notes).encode())):
            member = tarfile.TarInfo(f"{self.num_images:09d}{ending}")
            member.size = len(content)
            self.archive.addfile(member, io.BytesIO(content))
        self.num_images += 1
        self.num_bytes += len(data)

    def _finish(self) -> None:
        if self.archive is None:
            return
        self.archive.close()
        shard = self.folder / f"{self.name}-{len(self.shards):06d}.tar"
        self.partial.replace(shard)
        index_shard(str(shard))
        self.shards.append(shard)
        self.archive, self.num_bytes = None, 0
