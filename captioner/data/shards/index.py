"""Where in a shard the images lie: its index.

An index is a file of JSON lines, `SHARD.tar.jsonl`, beside its shard or in a folder of its own:

    {"format": 1, "num_bytes": 262144000, "num_images": 1850, "checksum": 2774539180}
    {"image": "000000000.jpg", "offset": 512, "size": 134512, "image_id": 391895, "captions": ["a man ..."]}

With it all is known before the first image is read, as training needs it: how many images there are, and how long their
captions are; and each image is one read at an offset. So an epoch is exact, in one process or many, and what comes
when depends on (seed, epoch) alone. (WebDataset's own loaders go through shards from end to end: what an epoch is
over several processes is for their user to say, and a run that was cut off begins a shard anew.)

The checksum (CRC-32) is of all else that the index holds, and is compared when it is read. It finds damage and lines
that were mixed up; it is no signature. Indices of earlier versions have none, and are read without.
"""

from __future__ import annotations

import json
import os
import sys
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, NamedTuple

from captioner.data.images import MAX_BYTES, is_image, is_remote, suffix_of, unread
from captioner.data.shards.marks import ShardError
from captioner.data.shards.names import file_name
from captioner.data.shards.notes import Notes, read_notes
from captioner.data.shards.tar import files_of, head_of, opened, reason_of
from captioner.files import whole_file
from captioner.texts import ItemId, caption_text, item_id, parse_json
from captioner.types import ImageError

FORMAT = 1  # of an index
CHECKSUM = b', "checksum": '
UNCHECKED = {"format", "num_bytes", "num_images"}
"""What the first lines of earlier versions have."""

MAX_TEXT = 1 << 24
"""Bytes of a sample's captions; a larger text is left out."""

MAX_CAPTIONS = 1 << 28
"""Letters of all captions of a shard, which are in memory together."""


class _Entry(NamedTuple):
    """An image in an index; the fields are those of a line."""

    image: str
    offset: int
    size: int
    image_id: ItemId
    captions: list[str]


class _Index(NamedTuple):
    """What an index says of its shard."""

    num_bytes: int
    entries: list[_Entry]


class _File(NamedTuple):
    """A file in a shard: an image, or a text (`notes`)."""

    name: str
    offset: int
    size: int
    notes: Notes | None = None


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
    name behind the shard's. A text that makes no sense is left out, see `read_notes`; its image is not.

    Photos whose names hold dots are samples of their own, if they have captions (or ids) of their own: `photo v1.5.jpg`
    with `photo v1.5.txt`, beside `photo v1.6.jpg` with `photo v1.6.txt`.

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
    num_kept = 0
    try:
        with opened(url) as file:
            for member, content in files_of(file):
                key, suffix = _split(member.name)
                found = _file(url, member, content, problems)
                if found is None:
                    continue
                if suffix in samples.setdefault(key, {}):
                    raise ShardError(f"{url}/{member.name}: the sample {key!r} has two files .{suffix}")
                samples[key][suffix] = found
                num_kept += sum(map(len, found.notes.captions)) if found.notes is not None else 0
                if num_kept > MAX_CAPTIONS:
                    raise ShardError(
                        f"{url}/{member.name}: with these, the shard's captions have {num_kept:,} letters, more than "
                        f"the {MAX_CAPTIONS:,} that an index may hold: pack its images into several shards"
                    )
            num_bytes = file.seek(0, os.SEEK_END)
    except ShardError:
        raise
    except Exception as error:  # each kind of storage has errors of its own
        raise ShardError(f"{url}: {reason_of(error)}") from error
    entries = [entry for sample in samples.values() for entry in _entries(url, sample, problems)]
    _write_index(Path(place), _Index(num_bytes, entries))
    return len(entries), problems


def _split(name: str) -> tuple[str, str]:
    """A file's key and suffix."""
    folder, slash, file = name.rpartition("/")
    stem, _, suffix = file.partition(".")
    return f"{folder}{slash}{stem}", suffix.lower()


def _file(url: str, member: tarfile.TarInfo, content: IO[bytes], problems: list[ImageError]) -> _File | None:
    """What is kept of a file; None if it is neither an image nor a text, or is left out."""
    where, ending = f"{url}/{member.name}", suffix_of(member.name)
    place = (member.name, member.offset_data, member.size)
    if ending in (".json", ".txt"):
        if member.size > MAX_TEXT:
            problems.append(
                ImageError(where, f"left out: has {member.size:,} bytes, and captions at most {MAX_TEXT:,}")
            )
            return None
        return _File(*place, read_notes(content.read(), ending == ".json", where))
    if not is_image(member.name, partial(head_of, content)):
        return None
    if 0 < member.size <= MAX_BYTES:
        reason = unread(member.name, head_of(content))
    else:
        reason = f"has {member.size:,} bytes" if member.size else "is empty"
    if reason is not None:
        problems.append(ImageError(where, f"left out: {reason}"))
        return None
    return _File(*place)


def _entries(url: str, sample: dict[str, _File], problems: list[ImageError]) -> Iterator[_Entry]:
    """The index's lines of the files of one key: one for its image, and one for each image with notes of its own."""
    images = [suffix for suffix, file in sample.items() if file.notes is None]
    stems = {suffix: stem for suffix in images if (stem := _stem(suffix)) and _notes(sample, stem) != ([], None)}
    rest = [suffix for suffix in images if suffix not in stems]
    fewest = min((suffix.count(".") for suffix in rest), default=0)
    alike = [
        suffix for suffix in rest if suffix.count(".") == fewest
    ]  # of more dots it is a mask, a depth map or the like
    if alike and (fewest == 0 or not stems):
        stems[alike.pop(0)] = ""
    for suffix in alike:
        reason = "left out: its sample has another image, and it has no captions of its own"
        problems.append(ImageError(f"{url}/{sample[suffix].name}", reason))
    for stem in dict.fromkeys([*stems.values(), *map(_stem, images)]):
        for name, notes in _texts(sample, stem):
            if notes.trouble:
                problems.append(ImageError(f"{url}/{name}", f"left out: {notes.trouble}"))
    for suffix in images:
        if suffix in stems:
            yield _entry(url, sample, suffix, stems[suffix])


def _stem(suffix: str) -> str:
    """What an image's suffix has before its last dot, and those of its own texts before ".json" and ".txt"."""
    return suffix.rpartition(".")[0]


def _entry(url: str, sample: dict[str, _File], suffix: str, stem: str) -> _Entry:
    """An image's line.

    Args:
        url: of the shard.
        sample: the files of a key.
        suffix: the image's.
        stem: of its texts, see `_stem`.
    """
    image = sample[suffix]
    captions, image_id = _notes(sample, stem)
    if image_id is None:
        image_id = f"{file_name(url)}/{image.name}"
    return _Entry(image.name, image.offset, image.size, image_id, captions)


def _notes(sample: dict[str, _File], stem: str) -> tuple[list[str], ItemId | None]:
    """The captions and the id in a sample's texts: those of the JSON file first."""
    texts = [notes for _, notes in _texts(sample, stem)]
    captions: list[str] = next((notes.captions for notes in texts if notes.captions), [])
    return captions, next((notes.image_id for notes in texts if notes.image_id is not None), None)


def _texts(sample: dict[str, _File], stem: str) -> Iterator[tuple[str, Notes]]:
    """A sample's JSON file and its text file, where it has them; see `_entry`."""
    for ending in ("json", "txt"):
        file = sample.get(f"{stem}.{ending}" if stem else ending)
        if file is not None and file.notes is not None:
            yield file.name, file.notes


def _write_index(path: Path, index: _Index) -> None:
    """Write an index, whole or not at all."""
    head = {"format": FORMAT, "num_bytes": index.num_bytes, "num_images": len(index.entries)}
    text = json.dumps(head).encode().removesuffix(b"}")
    with whole_file(path) as file:
        file.write(text + CHECKSUM + str(_checksum(text, _lines(index))).encode() + b"}\n")
        file.writelines(_lines(index))


def _lines(index: _Index) -> Iterator[bytes]:
    """The lines behind the first, one at a time: together they may take several times the memory of the captions."""
    return (json.dumps(entry._asdict()).encode() + b"\n" for entry in index.entries)


def _checksum(head: bytes, lines: Iterable[bytes]) -> int:
    """CRC-32 of an index.

    Args:
        head: its first line up to the checksum.
        lines: the others, with their line breaks.
    """
    checksum = zlib.crc32(head)
    for line in lines:
        checksum = zlib.crc32(line, checksum)
    return checksum


def read_index(url: str, folder: str | None) -> _Index:
    """The index of a shard.

    Raises:
        FileNotFoundError: there is none.
        ShardError: it is damaged, or of a newer version.
    """
    place = index_place(url, folder)
    try:
        with opened(place) as file:
            first, *lines = file.read().splitlines(keepends=True) or [b""]
        head = parse_json(first.decode(), "line 1")
        if _whole(head["format"]) > FORMAT:
            raise ShardError(f"{place}: made by a newer captioner: pip install --upgrade captioner")
        if head.keys() != UNCHECKED and head.get("checksum") != _checksum(first.rpartition(CHECKSUM)[0], lines):
            raise ValueError("its checksum is another one")
        num_bytes = _whole(head["num_bytes"], most=sys.maxsize)
        entries = [_read_entry(line, f"line {number}", num_bytes) for number, line in enumerate(lines, start=2)]
        if len(entries) != _whole(head["num_images"]):
            raise ValueError(f"{len(entries):,} of {head['num_images']:,} lines")
        return _Index(num_bytes, entries)
    except FileNotFoundError as error:
        command = f"captioner shards '{url}'" + ("" if folder is None else f" --output '{folder}'")
        raise FileNotFoundError(f"{place}: the shard has no index; this makes it: {command}") from error
    except ShardError:
        raise
    except (ValueError, KeyError, TypeError, RecursionError, EOFError) as error:
        raise ShardError(f"{place}: damaged ({reason_of(error)}), or not a shard's index; make it again") from error


def _read_entry(line: bytes, where: str, num_bytes: int) -> _Entry:
    """An image, of its line.

    Args:
        line: its JSON.
        where: its place, for errors.
        num_bytes: of the shard.

    Raises:
        ValueError: it is malformed, or holds an impossible value.
        TypeError: it has other fields.
    """
    entry = _Entry(**parse_json(line.decode(), where))
    item_id(entry.image_id, where)
    if not isinstance(entry.image, str):
        raise ValueError(f"{where}: the image {entry.image!r:.100} is not a name")
    if not isinstance(entry.captions, list):
        raise ValueError(f"{where}: the captions {entry.captions!r:.100} are not a list of texts")
    for caption in entry.captions:
        caption_text(caption, where)
    last = num_bytes - _whole(entry.size, least=1)
    if _whole(entry.offset, least=tarfile.BLOCKSIZE, most=last) % tarfile.BLOCKSIZE:
        raise ValueError(f"{where}: no file in a tar begins at byte {entry.offset:,}")
    return entry


def _whole(number: object, least: int = 0, most: int | None = None) -> int:
    """A whole number in a range.

    Raises:
        ValueError: it is something else.
    """
    if not isinstance(number, int) or isinstance(number, bool):
        raise ValueError(f"{number!r:.100} where a whole number is expected")
    if number < least or (most is not None and number > most):
        upper = "" if most is None else f" and at most {most:,}"
        raise ValueError(f"{number:,} where a whole number of at least {least:,}{upper} is expected")
    return number
