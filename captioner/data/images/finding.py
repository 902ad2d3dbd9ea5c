"""The one way to find image files, for the whole project."""

from __future__ import annotations

import glob
import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from captioner.data.images.kinds import HEAD, PHOTO_SUFFIXES, kind_of, suffix_of
from captioner.data.images.opening import IMAGE_SUFFIXES, os_reason
from captioner.data.images.reading import is_remote
from captioner.types import ImageError


def find_images(paths: Sequence[str | Path]) -> tuple[list[str], list[ImageError]]:
    """Find the image files that a command line's PATHs mean.

    A path is, in this order: a file, taken whatever it is; a folder, searched through all its folders for images
    (`is_image`), those included that cannot be read here, so that opening them says why; a URL, taken as it is; or a
    glob pattern, in which `**` stands for any number of folders, and whose matches are taken as if they had been given.
    Hidden files and folders are skipped in folders and patterns, and a loop of links is walked once.

    Args:
        paths: files, folders, URLs and patterns.

    Returns:
        found: paths in the order given (sorted within a folder or pattern), spelt as given or found, each
            once.
        problems: one `ImageError` for each path that gave nothing and each folder that cannot be read.
    """
    if isinstance(paths, str):
        raise TypeError(f"give a list of paths, not the single text {paths!r}")
    found: dict[str, str] = {}  # absolute path -> as spelt; dicts keep their order
    problems: list[ImageError] = []
    for path in paths:
        matches, troubles = _matches(str(path))
        for match in matches:
            found.setdefault(match if is_remote(match) else os.path.abspath(match), match)
        problems += troubles
    return list(found.values()), problems


def is_image(name: str, head: Callable[[], bytes]) -> bool:
    """Whether a file is an image, which may or may not be read here: by its suffix, else by its first bytes.

    Args:
        name: the file's.
        head: reads its first `HEAD` bytes; not called where the suffix is an image's.
    """
    suffix = suffix_of(name)
    return suffix in IMAGE_SUFFIXES or suffix in PHOTO_SUFFIXES or kind_of(head()) is not None


def _matches(path: str) -> tuple[list[str], list[ImageError]]:
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
        if is_remote(path):
            return [path], []
        if glob.has_magic(path) and "\0" not in path:
            return _pattern_matches(path)
        reason = os_reason(error) if isinstance(error, OSError) else "is not a valid path"
        return [], [ImageError(path, reason)]
    if not stat.S_ISDIR(status.st_mode):
        return [path], []
    found, problems = _images_below(path)
    if not found and not problems:
        problems.append(ImageError(path, "no image in this folder"))
    return found, problems


def _pattern_matches(pattern: str) -> tuple[list[str], list[ImageError]]:
    found: list[str] = []
    problems: list[ImageError] = []
    for match in _glob(pattern):
        if os.path.isdir(match):
            images, troubles = _images_below(match)
            found += images
            problems += troubles
        else:
            found.append(match)
    if not found and not problems:
        problems.append(ImageError(pattern, "no image matches this pattern"))
    return found, problems


def _images_below(folder: str) -> tuple[list[str], list[ImageError]]:
    problems: list[ImageError] = []
    files = [os.path.join(place, file) for place, names in _walk(folder, problems) for file in names]
    return sorted(file for file in files if is_image(file, partial(_head, file))), problems


def _head(path: str) -> bytes:
    """The first bytes of a file; none of one that is not regular, as a pipe would be waited for, or cannot be read."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return b""
        with open(path, "rb", buffering=0) as file:
            return file.read(HEAD)
    except OSError:
        return b""


def _walk(top: str, problems: list[ImageError]) -> Iterator[tuple[str, list[str]]]:
    """Every folder from `top` down, once, with its files; hidden ones are left out, links are followed."""

    def report(error: OSError) -> None:
        problems.append(ImageError(str(error.filename), os_reason(error)))

    seen = set()
    for folder, subfolders, files in os.walk(top, onerror=report, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # a link back up, or a second way to the same folder
            subfolders.clear()
            continue
        seen.add(real)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        yield folder, [name for name in files if not name.startswith(".")]


_ANY_FOLDERS = re.compile(rf"(?<![^{re.escape(os.sep)}])\*\*(?:{re.escape(os.sep)}|$)")


def _glob(pattern: str) -> list[str]:
    """`glob.glob(pattern, recursive=True)`, sorted, and safe from loops of links (which that follows)."""
    head, *tail = _ANY_FOLDERS.split(pattern, maxsplit=1)
    if not tail:
        return sorted(glob.glob(pattern))
    matches = set()
    for top in glob.glob(head) if head else [os.curdir]:
        if tail == [""]:  # "photos/**" is the folder "photos"
            matches.add(top)
            continue
        for folder, _ in _walk(top, problems=[]):
            spelt = os.path.join(folder, "") if head else os.path.relpath(folder)
            spelt = "" if spelt == os.curdir else spelt
            matches.update(_glob(os.path.join(glob.escape(spelt), tail[0])))
    return sorted(matches)
