"""What readers share: text files, JSON and captions, with errors that name the file."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any


def cleaned(captions: Iterable[str]) -> tuple[str, ...]:
    """Captions without their outer white space; empty ones are left out."""
    stripped = (caption.strip() for caption in captions)
    return tuple(caption for caption in stripped if caption)


def folder_holding(root: Path, name: str) -> Path | None:
    """`root` or the first folder in it, by name, that holds the file."""
    folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    return next((folder for folder in [root, *folders] if (folder / name).is_file()), None)


@contextlib.contextmanager
def text_file(path: Path) -> Iterator[io.TextIOBase]:
    """A UTF-8 file, with or without a byte-order mark; an error in reading it names it."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            yield file
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from error


def numbered_lines(path: Path) -> Iterator[tuple[str, str]]:
    """The lines that are not blank, each with its place for errors."""
    with text_file(path) as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield f"{path}, line {number}", line.rstrip("\r\n")


@contextlib.contextmanager
def expecting(format: str, path: Path) -> Iterator[None]:
    """Turns the stumbling over a file of another form into an error that names the file."""
    try:
        yield
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        what = f"an entry lacks {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"{path}: not in {format}: {what}") from error


def load_json(path: Path) -> Any:
    """What a JSON file holds; an error names it."""
    try:
        with text_file(path) as file:
            return json.load(file)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: malformed JSON: {error}") from error
