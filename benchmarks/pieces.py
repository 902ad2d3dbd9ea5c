"""A file in pieces, for ways that let only small files through; and the pieces put together again, checked."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from captioner.files import write_whole

PIECE_BYTES = 16_000_000


def split(path: str | Path, piece_bytes: int = PIECE_BYTES) -> dict[str, Any]:
    """Write a file's pieces beside it, as NAME.000, NAME.001 and so on; those of an earlier file are removed.

    Args:
        path: the file, which stays as it is.
        piece_bytes: of a piece, at most.

    Returns:
        JSON values for `join`: the file's name, bytes and SHA-256, and these of its pieces.
    """
    path = Path(path)
    content = path.read_bytes()
    for old in path.parent.glob(f"{path.name}.[0-9][0-9][0-9]"):
        old.unlink()
    pieces = []
    for number, start in enumerate(range(0, len(content), piece_bytes)):
        piece = path.with_name(f"{path.name}.{number:03d}")
        write_whole(piece, content[start : start + piece_bytes])
        pieces.append(_described(piece.name, content[start : start + piece_bytes]))
    return {**_described(path.name, content), "pieces": pieces}


def join(description: Mapping[str, Any], folder: str | Path) -> Path:
    """Put a file together again, unless it is there already.

    Args:
        description: what `split` returned.
        folder: where the pieces lie, and where the file is written to.

    Raises:
        FileNotFoundError: a piece is missing.
        ValueError: a piece is damaged, or the description is.
    """
    folder = Path(folder)
    try:
        whole = dict(description)
        named = {_plain_name(piece["file"]): piece["sha256"] for piece in whole["pieces"]}
        path, digest = folder / _plain_name(whole["file"]), whole["sha256"]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{folder}: the description of the pieces is damaged ({error!r})") from error
    if path.is_file() and digest_of(path.read_bytes()) == digest:
        return path
    content = b"".join(_checked(folder / name, expected) for name, expected in named.items())
    if digest_of(content) != digest:
        raise ValueError(f"{folder}: the pieces of {path.name} are not those of one file; copy all of them again")
    write_whole(path, content)
    return path


def digest_of(content: bytes) -> str:
    """SHA-256, in hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def _described(name: str, content: bytes) -> dict[str, Any]:
    return {"file": name, "bytes": len(content), "sha256": digest_of(content)}


def _plain_name(name: str) -> str:
    """A name without folders, which a description from elsewhere may not have."""
    if Path(name).name != name:
        raise ValueError(f"{name!r} is not the plain name of a file")
    return name


def _checked(path: Path, digest: str) -> bytes:
    """The content of a piece."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: this piece is missing; copy it here")
    content = path.read_bytes()
    if digest_of(content) != digest:
        raise ValueError(f"{path}: damaged: its SHA-256 is not the one that was noted; copy it again")
    return content
