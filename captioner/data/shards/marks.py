"""The mark of a split that is being packed: as long as it is there, the split's shards are not all there.

A mark is a file `SPLIT.unfinished` beside the shards, and says which splits are packed with it. By it who reads the
shards, or packs them again, knows what a killed process has left.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from captioner.data.images import is_remote
from captioner.files import write_whole

SUFFIX = ".unfinished"


class ShardError(ValueError):
    """A shard or an index that is damaged, unfinished, or does not fit what it is asked for."""


def mark_of(folder: str | Path, split: str) -> Path:
    """Where a split's mark is."""
    return Path(folder) / f"{split}{SUFFIX}"


def shards_of(folder: str | Path, split: str) -> list[Path]:
    """The shards of a split that are in a folder, in order."""
    name = re.compile(rf"{re.escape(split)}-\d+\.tar")
    return sorted(path for path in Path(folder).glob("*.tar") if name.fullmatch(path.name))


def to_pack(folder: str | Path, splits: Sequence[str]) -> list[str]:
    """Mark splits that are to be packed into a folder, all of them before the first one is begun.

    Args:
        folder: is made where it is missing.
        splits: their names.

    Returns:
        The names without those that a run of the same splits, which did not come to its end, has finished.

    Raises:
        ValueError: shards of one are there, and are no such run's.
    """
    unfinished = [split for split in splits if mark_of(folder, split).exists()]
    together = {other for split in unfinished for other in _splits(mark_of(folder, split))}
    missing = []
    for split in splits:
        there = shards_of(folder, split)
        if not there or split in unfinished:
            missing.append(split)
        elif split not in together:
            raise ValueError(f"{there[0]} is there already: choose another folder, or delete the shards of this name")
    for split in missing:
        mark(folder, split, splits)
    return missing


def mark(folder: str | Path, split: str, splits: Sequence[str] = ()) -> Path:
    """Mark a split, unless it is marked; returns its mark."""
    path = mark_of(folder, split)
    if not path.exists():
        note = "captioner shards is packing this split, or was stopped while it did: run the same command again"
        write_whole(path, json.dumps({"note": note, "splits": list(splits)}) + "\n")
    return path


def _splits(path: Path) -> list[str]:
    """What is packed together with a marked split."""
    try:
        return [split for split in json.loads(path.read_bytes())["splits"] if isinstance(split, str)]
    except (ValueError, KeyError, TypeError, FileNotFoundError):
        return []


def require_finished(shards: Iterable[str]) -> None:
    """Make sure that no shard is of a split whose packing has not come to its end.

    Args:
        shards: their paths; of URLs it is not known.

    Raises:
        ShardError: one is.
    """
    splits = dict.fromkeys(os.path.split(shard) for shard in shards if not is_remote(shard))
    names = {(folder, found[1]) for folder, name in splits if (found := re.fullmatch(r"(.+)-\d+\.tar", name))}
    for folder, split in sorted(names):
        if mark_of(folder, split).exists():
            raise unfinished_error(folder, split)


def unfinished_error(folder: str | Path, split: str) -> ShardError:
    """That the shards of a split are not all there."""
    return ShardError(
        f"{Path(folder) / split}-*.tar: not all shards of this split are there: `captioner shards` is at work on it, "
        "or was stopped before it had finished; run the same command again"
    )
