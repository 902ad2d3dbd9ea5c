"""Names for the output files of many photos: no two meet, and no photo is written over."""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count, takewhile
from pathlib import Path

SUFFIXES = (".png", ".heads.png", ".gif", ".npz", ".json")


def output_stems(paths: Sequence[str | Path], output: Path) -> list[Path]:
    """Where the outputs of each photo go, without a suffix: `output / <stem>` where that is unambiguous.

    Photos of the same stem keep their folders below the deepest folder they share: `a/x.jpg` and `b/x.jpg`
    go to `a/x` and `b/x`. Within one folder they keep their suffix: `x.jpg` and `x.png` go to `x.jpg` and
    `x.png` (files `x.jpg.gif`, `x.png.gif`, ...). So does a photo that an output would overwrite, as where
    `x.png` lies in `output` itself. Names that differ in case or Unicode composition alone count as the
    same, as they do on many file systems; where nothing else tells two photos apart they are numbered. A
    photo that is given twice gets one stem. Of a URL the host is the first folder, and of what follows its path
    (`?size=large`) the name has a digest.

    Args:
        paths: photo files.
        output: the folder to write to; all stems lie below it.

    Returns:
        one stem per path, in order.

    Raises:
        ValueError: for a path without a file name.
    """
    photos = [_place(str(path)) for path in paths]
    for path, photo in zip(paths, photos, strict=True):
        if not photo.name:
            raise ValueError(f"{str(path)!r} names no file; give the path of a photo")
    stems = _distinct_places(list(dict.fromkeys(photos)))
    taken = {_key(photo) for photo in photos}
    for photo, place in stems.items():
        stem = next(choice for choice in _choices(photo, output / place) if taken.isdisjoint(_files(choice)))
        taken.update(_files(stem))
        stems[photo] = stem
    return [stems[photo] for photo in photos]


def _place(path: str) -> Path:
    """A photo's path from the root on; a URL made one."""
    scheme, is_url, rest = path.partition("://")
    if not is_url or os.path.exists(path):
        return Path(os.path.abspath(path))
    own = re.split("[?#]", rest, maxsplit=1)[0]
    place = Path(os.path.abspath(f"/{scheme}/{own}"))
    if own != rest:
        digest = hashlib.sha256(rest.encode("utf-8", "backslashreplace")).hexdigest()[:8]
        place = place.with_name(f"{place.stem}-{digest}{place.suffix}")
    return place


def _distinct_places(photos: list[Path]) -> dict[Path, Path]:
    """A relative path for each photo: its stem, with as much before and behind it as it needs."""
    names = {photo: photo.stem for photo in photos}
    for namesakes in _grouped(photos, lambda photo: _key(photo.with_name(photo.stem))):
        if len(namesakes) > 1:
            names.update((photo, photo.name) for photo in namesakes)
    places = {}
    for namesakes in _grouped(photos, lambda photo: _key(photo.stem)):
        levels = zip(*(photo.parent.parts for photo in namesakes), strict=False)
        num_shared = len(list(takewhile(lambda parts: len(set(parts)) == 1, levels)))
        for photo in namesakes:
            folders = [part.strip(":\\/") for part in photo.parent.parts[num_shared:]]
            places[photo] = Path(*folders, names[photo])
    return {photo: places[photo] for photo in photos}


def _choices(photo: Path, stem: Path) -> Iterator[Path]:
    yield stem
    yield stem.with_name(photo.name)
    for number in count(2):
        yield stem.with_name(f"{photo.name}-{number}")


def _files(stem: Path) -> set[str]:
    return {_key(os.path.abspath(f"{stem}{suffix}")) for suffix in SUFFIXES}


def _grouped(photos: Iterable[Path], key: Callable[[Path], str]) -> list[list[Path]]:
    groups: dict[str, list[Path]] = defaultdict(list)
    for photo in photos:
        groups[key(photo)].append(photo)
    return list(groups.values())


def _key(path: str | Path) -> str:
    """Equal for names that some file system holds to be the same."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", str(path)).casefold())
