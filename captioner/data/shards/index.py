"""Where in a shard the images lie: its index.

An index is a file of JSON lines, `SHARD.tar.jsonl`, beside its shard or in a folder of its own:

    {"format": 1, "num_bytes": 262144000, "num_images": 1850}
    {"image": "000000000.jpg", "offset": 512, "size": 134512, "image_id": 391895, "captions": ["a man ..."]}

With it all is known before the first image is read, as training needs it: how many images there are, and how long their
captions are; and each image is one read at an offset. So an epoch is exact, in one process or many, and what comes
when depends on (seed, epoch) alone. (WebDataset's own loaders go through shards from end to end: what an epoch is
over several processes is for their user to say, and a run that was cut off begins a shard anew.)
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

from captioner.data.shards.names import file_name, is_remote
from captioner.data.shards.tar import MAX_BYTES, files_of, is_image, opened, reason_of
from captioner.files import whole_file
from captioner.types import ImageError

FORMAT = 1  # of an index


class ShardError(ValueError):
    """A shard or an index that is damaged, or does not fit what it is asked for."""


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


def read_index(url: str, folder: str | None) -> _Index:
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
