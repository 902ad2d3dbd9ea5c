"""What lies in a tar file."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import IO, BinaryIO

from captioner.data.images import IMAGE_SUFFIXES
from captioner.data.shards.names import file_name, is_remote

MAX_BYTES = 1 << 28
"""Files in a shard of more bytes are no images, and are not read."""


def opened(url: str) -> AbstractContextManager[BinaryIO]:
    """A shard, or its index, opened for reading; unpacked where it is compressed."""
    if not is_remote(url) and not url.lower().endswith((".gz", ".bz2", ".xz")):
        return open(url, "rb")
    import fsspec

    return fsspec.open(url, "rb", compression="infer")


def files_of(file: BinaryIO) -> Iterator[tuple[tarfile.TarInfo, IO[bytes]]]:
    """The regular files of an opened tar that are not hidden, each to be read before the next is asked for.

    Raises:
        tarfile.TarError: it is damaged, or has no end.
    """
    with tarfile.open(fileobj=file, mode="r:") as archive:
        while (member := archive.next()) is not None:
            archive.members.clear()  # type: ignore[attr-defined]  # it would keep them all
            content = archive.extractfile(member) if member.isreg() and not member.issparse() else None
            if content is not None and not file_name(member.name).startswith("."):
                yield member, content
        file.seek(archive.offset)  # the module takes a damaged header for the end
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError(f"no end mark at byte {archive.offset:,}")


def is_image(name: str) -> bool:
    """Whether a file's name says that it is an image."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def reason_of(error: Exception) -> str:
    """One line that says what went wrong with a shard."""
    if isinstance(error, FileNotFoundError):
        return "no such file"
    strerror = error.strerror if isinstance(error, OSError) else None
    detail = " ".join((strerror or str(error)).split()) or type(error).__name__
    return f"damaged or cut short ({detail})" if isinstance(error, tarfile.TarError | EOFError) else detail
