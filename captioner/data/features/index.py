"""What a cache says of its rows, and whether it is still what was written.

`cache.json` and each line of `index.jsonl` have a checksum (CRC-32). A line's goes on from that of what the cache was
made with, so that lines belong to one `cache.json`, and a line says where its rows start, so that they have one order.
It also has the checksum of each row, which is compared when the row is read. Checksums find damage and files that were
mixed up; they are no signature. Caches of earlier versions have none, and are read without.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from captioner.data.features.identity import CacheError
from captioner.files import write_whole
from captioner.types.limits import MOST

BUILD_AGAIN = "delete the folder and build the cache again"
CHECKSUM = b', "checksum": '
UNCHECKED = {"sha256", "views", "name"}
"""What the lines of earlier versions have."""

LARGEST_FINITE = 0x7BFF
"""The bits of float16's largest number, but for its sign; infinities and NaN are above."""


class Row(NamedTuple):
    """Where an image's features lie.

    Attributes:
        start: its first row in the file of features.
        views: how many rows follow from there.
        checksums: CRC-32 of each row; none where an earlier version has written them.
    """

    start: int
    views: int
    checksums: tuple[int, ...] = ()


class Index(NamedTuple):
    """The whole lines of an index.

    Attributes:
        rows: where each image's rows are, by the SHA-256 of its file; the last line counts for an image that was added
            again with more views.
        num_rows: how many rows there are.
        num_bytes: of the lines; what follows is the half line of a process that was killed.
        num_unchecked: lines without checksums.
    """

    rows: dict[str, Row]
    num_rows: int
    num_bytes: int
    num_unchecked: int


# ------------------------------------------------------------------------------------------ cache.json


def read_meta(folder: Path) -> dict[str, Any] | None:
    """What cache.json says; None if there is no cache.

    Raises:
        CacheError: it is damaged, or it is missing where there are features.
    """
    path = folder / "cache.json"
    if not path.is_file():
        if (folder / "index.jsonl").exists() or (folder / "features.f16").exists():
            raise CacheError(f"{path} is missing, which says what the features beside it are from: {BUILD_AGAIN}")
        return None
    raw = path.read_bytes()
    try:
        meta = json.loads(raw)
        sound = _is_meta(meta) and meta.pop("checksum", None) in (None, _checksum_of_meta(meta))
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        sound = False
    if not sound:
        raise CacheError(f"{path}: damaged, or not a feature cache; {BUILD_AGAIN}")
    return meta


def write_meta(folder: Path, meta: dict[str, Any]) -> None:
    """Write cache.json, with its checksum."""
    checked = {**meta, "checksum": _checksum_of_meta(meta)}
    write_whole(folder / "cache.json", json.dumps(checked, indent=2) + "\n")


def _is_meta(meta: Any) -> bool:
    kinds = {"format": int, "encoder": dict, "weights": str, "transform": dict, "grid": list}
    if not all(isinstance(meta.get(name), kind) for name, kind in kinds.items()):
        return False
    if not isinstance(meta["augmentation"], dict | None):
        return False
    return len(meta["grid"]) == 3 and all(type(side) is int and 1 <= side <= MOST for side in meta["grid"])


def _checksum_of_meta(meta: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(meta, sort_keys=True).encode())


def made_with(meta: dict[str, Any]) -> int:
    """The checksum of what a cache was made with, but for the augmentation, which may come later."""
    fixed = {name: meta[name] for name in ("format", "encoder", "weights", "transform", "grid")}
    return zlib.crc32(json.dumps(fixed, sort_keys=True).encode())


# ------------------------------------------------------------------------------------------ index.jsonl


def read_index(folder: Path, meta: dict[str, Any]) -> Index:
    """The whole lines of the index.

    Args:
        folder: the cache.
        meta: what cache.json says.

    Raises:
        CacheError: a line is damaged, stands in another place, or is of another cache.
    """
    path = folder / "index.jsonl"
    raw = path.read_bytes() if path.is_file() else b""
    num_bytes = raw.rfind(b"\n") + 1
    rows: dict[str, Row] = {}
    start, num_unchecked, begin = 0, 0, made_with(meta)
    for number, line in enumerate(raw[:num_bytes].split(b"\n")[:-1], start=1):
        try:
            entry = json.loads(line)
            digest, row = _read_entry(entry, line, start, begin)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise CacheError(f"{path}, line {number}: damaged ({reason}); {BUILD_AGAIN}") from error
        rows[digest] = row
        start += row.views
        num_unchecked += not row.checksums
    return Index(rows, start, num_bytes, num_unchecked)


def _read_entry(entry: dict[str, Any], line: bytes, start: int, begin: int) -> tuple[str, Row]:
    """An image's SHA-256 and rows, of its line; any kind of error if it is damaged."""
    digest, views, checksums = entry["sha256"], entry["views"], tuple(entry.get("rows", ()))
    if not isinstance(digest, str) or type(views) is not int or not 1 <= views <= MOST:
        raise ValueError(f"sha256 {digest!r} and views {views!r} are no digest and no number of rows")
    if entry.keys() != UNCHECKED:
        if entry["checksum"] != zlib.crc32(line[: line.rindex(CHECKSUM)], begin):
            raise ValueError("its checksum is another one, or cache.json is of another cache")
        if entry["start"] != start or len(checksums) != views:
            raise ValueError(f"its rows start at {entry['start']}, not at {start}")
    return digest, Row(start, views, checksums)


def index_line(digest: str, row: Row, name: str, meta: dict[str, Any]) -> bytes:
    """The line of an image.

    Args:
        digest: SHA-256 of its file.
        row: where its rows are.
        name: what it is called, for people.
        meta: what cache.json says.
    """
    entry = {"sha256": digest, "views": row.views, "name": name, "start": row.start, "rows": list(row.checksums)}
    text = json.dumps(entry).encode().removesuffix(b"}")
    return text + CHECKSUM + str(zlib.crc32(text, made_with(meta))).encode() + b"}\n"


# ------------------------------------------------------------------------------------------ rows


def row_bytes(grid: Sequence[int]) -> int:
    """The size of a row in the file of features."""
    return 2 * int(np.prod(grid))


def row_checksum(features: np.ndarray) -> int:
    """CRC-32 of a row."""
    return zlib.crc32(np.ascontiguousarray(features).data)


def is_finite(features: np.ndarray) -> bool:
    """Whether all numbers are, of float16 or float32."""
    if features.dtype == np.float16:  # by the bits, which is several times faster
        return bool((features.view(np.uint16) & 0x7FFF).max(initial=0) <= LARGEST_FINITE)
    return bool(np.isfinite(features).all())
