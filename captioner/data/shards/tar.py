"""What lies in a tar file."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import IO, BinaryIO

from captioner.data.images import HEAD
from captioner.data.shards.names import file_name, is_compressed, is_remote

MAX_HEADER = 1 << 20
"""Bytes of a file's headers (long names, further attributes); a tar in which one has more is not read on."""

_LONG_HEADERS = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)


class _Archive(tarfile.TarFile):
    """A tar whose headers are of bounded size."""

    header_bytes = 0  # of the headers before the next file


class _Header(tarfile.TarInfo):
    """A file's header; `tarfile` reads long ones, and maps of files with holes, whole, however long they are.

    Its `_proc_member` is made to be overridden.
    """

    def _proc_member(self, archive: _Archive) -> tarfile.TarInfo:
        if self.size < 0:
            raise tarfile.ReadError(f"{self.name!r} at byte {self.offset:,} says that it has {self.size:,} bytes")
        if self.type in _LONG_HEADERS:
            archive.header_bytes += self.size
            of_all = sum(len(key) + len(value) for key, value in archive.pax_headers.items())
            if archive.header_bytes + of_all > MAX_HEADER:
                raise tarfile.ReadError(
                    f"the header {self.name!r} at byte {self.offset:,} has {self.size:,} bytes, and headers of more "
                    f"than {MAX_HEADER:,} are not read"
                )
        return super()._proc_member(archive)  # type: ignore[misc]

    def _proc_sparse(self, archive: _Archive) -> tarfile.TarInfo:
        """A file with holes (GNU's old format) is not read: its map is passed over."""
        _, is_extended, size = self._sparse_structs  # type: ignore[attr-defined]
        while is_extended:
            block = archive.fileobj.read(tarfile.BLOCKSIZE)  # type: ignore[union-attr]
            is_extended = len(block) == tarfile.BLOCKSIZE and bool(block[504])
        self.sparse = []  # type: ignore[assignment]
        self.offset_data = archive.fileobj.tell()  # type: ignore[union-attr]
        archive.offset = self.offset_data + self._block(self.size)  # type: ignore[attr-defined]
        self.size = size
        return self

    def _proc_gnusparse_10(self, member: _Header, pax_headers: dict[str, str], archive: _Archive) -> None:
        """The same of the newest format, whose map lies in the file itself."""
        member.sparse = []  # type: ignore[assignment]


def opened(url: str) -> AbstractContextManager[BinaryIO]:
    """A shard, or its index, opened for reading; unpacked where it is compressed."""
    if not is_remote(url) and not is_compressed(url):
        return open(url, "rb")
    import fsspec

    return fsspec.open(url, "rb", compression="infer")


def files_of(file: BinaryIO) -> Iterator[tuple[tarfile.TarInfo, IO[bytes]]]:
    """The regular files of an opened tar that are not hidden, each to be read before the next is asked for.

    Raises:
        tarfile.TarError: it is damaged, or has no end, or a header is too long.
    """
    with _Archive.open(fileobj=file, mode="r:", tarinfo=_Header) as archive:
        while True:
            archive.header_bytes = 0
            if (member := archive.next()) is None:
                break
            archive.members.clear()  # type: ignore[attr-defined]  # it would keep them all
            if member.size < 0:
                raise tarfile.ReadError(f"{member.name!r} says that it has {member.size:,} bytes")
            content = archive.extractfile(member) if member.isreg() and not member.issparse() else None
            if content is not None and not file_name(member.name).startswith("."):
                yield member, content
        file.seek(archive.offset)  # the module takes a damaged header for the end
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError(f"no end mark at byte {archive.offset:,}")


def head_of(content: IO[bytes]) -> bytes:
    """The first bytes of a file in a tar, which is to be read from its beginning afterwards."""
    head = content.read(HEAD)
    content.seek(0)
    return head


def reason_of(error: Exception) -> str:
    """One line that says what went wrong with a shard."""
    if isinstance(error, FileNotFoundError):
        return "no such file"
    strerror = error.strerror if isinstance(error, OSError) else None
    detail = " ".join((strerror or str(error)).split()) or type(error).__name__
    return f"damaged or cut short ({detail})" if isinstance(error, tarfile.TarError | EOFError) else detail
