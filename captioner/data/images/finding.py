"""The one way to find image files, for the whole project."""

from __future__ import annotations

import glob
import os
import re
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from captioner.data.images.opening import IMAGE_SUFFIXES, os_reason
from captioner.types import ImageError


def find_images(paths: Sequence[str | Path]) -> tuple[list[str], list[ImageError]]:
    """Find the image files that a command line's PATHs mean.

    A path is, in this order: a file, taken whatever its suffix; a folder, searched through all its folders
    for the suffixes in `IMAGE_SUFFIXES` in any case; or a glob pattern, in which `**` stands for any number
    of folders, and whose matches are taken as if they had been given. Hidden files and folders are skipped in
    folders and patterns, and a loop of links is walked once. Nothing is opened.

    Args:
        paths: files, folders and patterns.

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
            found.setdefault(os.path.abspath(match), match)
        problems += troubles
    return list(found.values()), problems


def _matches(path: str) -> tuple[list[str], list[ImageError]]:
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
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
    found = [
        os.path.join(place, file)
        for place, files in _walk(folder, problems)
        for file in files
        if os.path.splitext(file)[1].lower() in IMAGE_SUFFIXES
    ]
    return sorted(found), problems


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
