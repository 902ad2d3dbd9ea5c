"""Paths, URLs and patterns of tar shards."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable

from captioner.data.images import is_remote
from captioner.data.shards.marks import require_finished
from captioner.types import ImageError

COMPRESSED = (".gz", ".bz2", ".xz")
SHARD_SUFFIXES = (".tar", *(f".tar{suffix}" for suffix in COMPRESSED))


def file_name(place: str) -> str:
    """What stands behind the last slash of a path or a URL; a URL's query is not of it."""
    return (place.partition("?")[0] if is_remote(place) else place).rpartition("/")[2]


def is_shard(place: str) -> bool:
    """Whether a path, URL or pattern is of tar files, by its suffix."""
    return file_name(place).lower().endswith(SHARD_SUFFIXES)


def is_compressed(place: str) -> bool:
    """Whether a path or URL is of a compressed file, by its suffix."""
    return file_name(place).lower().endswith(COMPRESSED)


def find_shards(pattern: str) -> list[str]:
    """The shards that a pattern means.

    Args:
        pattern: a path or a URL that fsspec opens (`s3://bucket/train-{000000..000012}.tar`); braces hold a range of
            numbers or a choice of names, `*`, `?` (not in URLs) and `[]` are looked up.

    Returns:
        paths and URLs, each once; sorted where they were looked up, else in the order of the braces. Whether they
        exist is known of those alone that were looked up.

    Raises:
        FileNotFoundError: nothing matches.
        ValueError: WebDataset's `pipe:`, which runs a program.
        ShardError: shards on this disk whose packing has not come to its end.
    """
    if pattern.startswith("pipe:"):
        raise ValueError(f"{pattern}: programs are not run here; give a path, or a URL that fsspec opens")
    if os.path.exists(pattern):
        found = [pattern]
    else:
        found = [match for choice in _choices(pattern) for match in _matches(choice)]
    if not found:
        raise FileNotFoundError(f"{pattern}: no shard matches this pattern")
    require_finished(found)
    return list(dict.fromkeys(found))


def find_all(patterns: Iterable[str]) -> tuple[list[str], list[ImageError]]:
    """The shards that several patterns mean, each once; and an error for each pattern that nothing matches.

    Raises:
        ValueError: see `find_shards`.
    """
    shards: list[str] = []
    problems = []
    for pattern in patterns:
        try:
            shards += find_shards(pattern)
        except FileNotFoundError:
            problems.append(ImageError(pattern, "no shard matches this pattern"))
    return list(dict.fromkeys(shards)), problems


def _choices(pattern: str) -> list[str]:
    """A pattern with its braces spelt out."""
    braces = re.search(r"\{(?:(\d+)\.\.(\d+)|([^{}]*,[^{}]*))\}", pattern)
    if braces is None:
        return [pattern]
    first, last, names = braces.groups()
    if names is None:
        choices = [f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1)]
    else:
        choices = names.split(",")
    head, tail = pattern[: braces.start()], pattern[braces.end() :]
    return [spelt for choice in choices for spelt in _choices(f"{head}{choice}{tail}")]


def _matches(name: str) -> list[str]:
    if is_remote(name):
        if not re.search(r"[*\[]", name):
            return [name]
        from fsspec.core import url_to_fs  # a third of a second, for local files in vain

        system, path = url_to_fs(name)
        return sorted(system.unstrip_protocol(match) for match in system.glob(path))
    return sorted(glob.glob(name, recursive=True)) if glob.has_magic(name) else [name]
