"""Images read from shards one by one, at random; of remote shards there may be copies on this disk."""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from captioner.data.images import Budget, is_remote
from captioner.data.shards.names import file_name, is_compressed
from captioner.data.shards.tar import opened, reason_of
from captioner.files import locked, sweep, whole_file
from captioner.types import ImageError, PackedImage

ABANDONED = 6 * 3600  # seconds since a copy that 0.1.0 was making has grown
COPY_SUFFIX = ".captioner-copy"  # no other file is removed from a folder of copies
OPEN_FILES = 16  # of each thread that reads images


@dataclass(frozen=True)
class Shard:
    """A tar file.

    Attributes:
        url: its path or URL.
        num_bytes: its length, as its index has it.
        copies: where a remote one is copied to before images are read from it; None: each image is a request.
    """

    url: str
    num_bytes: int = 0
    copies: Copies | None = None

    def read(self, offset: int, size: int) -> bytes:
        """Bytes of it; fewer where it ends.

        Raises:
            OSError: it cannot be read; or whatever else the package raises that reaches it.
        """
        if is_compressed(self.url):  # from its beginning on
            with opened(self.url) as unpacked:
                unpacked.seek(offset)
                return unpacked.read(size)
        if is_remote(self.url) and self.copies is None:
            from fsspec.core import url_to_fs

            system, path = url_to_fs(self.url)
            return system.cat_file(path, start=offset, end=offset + size)
        if self.copies is not None:  # not kept open: a copy that is removed would keep its place on the disk
            with self.copies.open(self) as copy:
                copy.seek(offset)
                return copy.read(size)
        file = _open_files.of(self)
        file.seek(offset)
        return file.read(size)


class _OpenFiles(threading.local):
    """The shards that a thread has open, those that it read last: on a network, to open a file is no small thing.

    A file that a process opened is no use to the processes that it starts: they would move its position.
    """

    def __init__(self) -> None:
        self.files: OrderedDict[tuple[int, Shard], BinaryIO] = OrderedDict()

    def of(self, shard: Shard) -> BinaryIO:
        """A shard, opened where it is not."""
        key = (os.getpid(), shard)
        if key not in self.files:
            self.files[key] = open(shard.url, "rb")  # noqa: SIM115 (closed when others took its place)
            if len(self.files) > OPEN_FILES:
                self.files.popitem(last=False)[1].close()
        self.files.move_to_end(key)
        return self.files[key]


_open_files = _OpenFiles()


@dataclass(frozen=True)
class Copies:
    """A folder of copies of remote shards, of bounded size; what was used longest ago goes first.

    All processes of a machine may share it. A copy is there whole or not at all, and one that is removed while it is
    being read is gone from the disk when it has been read. (Not on Windows.)

    Attributes:
        folder: on a disk of this machine.
        max_bytes: of all copies, those not counted that are being made by other processes.
    """

    folder: str
    max_bytes: int

    def open(self, shard: Shard) -> BinaryIO:
        """Open a shard's copy, which is made where there is none."""
        digest = hashlib.sha256(f"{shard.url} {shard.num_bytes}".encode()).hexdigest()[:16]
        path = Path(self.folder) / f"{digest}{COPY_SUFFIX}"
        with contextlib.suppress(FileNotFoundError):
            return _used_now(path)
        with locked(self.folder, wait=True, name=f"{digest[:2]}.lock"):  # one process copies a shard, others wait
            with contextlib.suppress(FileNotFoundError):
                return _used_now(path)
            return self._copy(shard, path)

    def _copy(self, shard: Shard, path: Path) -> BinaryIO:
        from fsspec.core import url_to_fs

        with locked(self.folder, wait=True, name="room.lock"):
            self._make_room(shard.num_bytes)
        with whole_file(path) as file:
            system, remote = url_to_fs(shard.url)
            system.get_file(remote, file.name)
            num_bytes = os.fstat(file.fileno()).st_size
            if num_bytes != shard.num_bytes:
                raise OSError(f"{num_bytes:,} bytes came, and the index says {shard.num_bytes:,}")
            return open(file.name, "rb")  # closed by who asked for it

    def _make_room(self, num_bytes: int) -> None:
        found = []
        sweep(self.folder)
        for path in Path(self.folder).glob(f"*{COPY_SUFFIX}.part"):  # what version 0.1.0 left aside
            with contextlib.suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > ABANDONED:
                    path.unlink()
        for path in Path(self.folder).glob(f"*{COPY_SUFFIX}"):
            with contextlib.suppress(FileNotFoundError):
                found.append((path.stat().st_mtime_ns, path.stat().st_size, path))
        too_many = sum(size for _, size, _ in found) + num_bytes - self.max_bytes
        for _, size, path in sorted(found):
            if too_many > 0:
                path.unlink(missing_ok=True)
                too_many -= size


def _used_now(path: Path) -> BinaryIO:
    """Open a copy, and note that it is in use."""
    file = open(path, "rb")  # noqa: SIM115 (closed by who asked for it)
    with contextlib.suppress(FileNotFoundError):
        os.utime(path)
    return file


class Loan:
    """An image file's bytes, that count among those of a stream until they are used or nobody has them any more."""

    def __init__(self, data: bytes | None = None, allowance: Budget | None = None) -> None:
        self.data = [] if data is None else [data]
        self.allowance = allowance

    def use(self) -> bytes | None:
        """The bytes, once."""
        try:
            data = self.data.pop()
        except IndexError:
            return None
        if self.allowance is not None:
            self.allowance.give_back(len(data))
        return data

    def __del__(self) -> None:
        self.use()

    def __reduce__(self) -> tuple[type[Loan], tuple[()]]:
        """Another process reads them again."""
        return (Loan, ())


@dataclass(frozen=True, slots=True)
class ShardImage(PackedImage):
    """An image file in a shard.

    Attributes:
        shard: the shard.
        member: the file's name in it.
        offset: where in the shard it begins, in bytes.
        size: its length in bytes.
        loan: the file itself, where the shard is streamed from elsewhere, until it is read.
    """

    shard: Shard
    member: str
    offset: int
    size: int
    loan: Loan | None = field(default=None, repr=False, compare=False)

    def __str__(self) -> str:
        return f"{self.shard.url}/{self.member}"

    @property
    def name(self) -> str:
        """See `PackedImage.name`."""
        return file_name(self.member)

    @property
    def num_bytes(self) -> int:
        """See `PackedImage.num_bytes`."""
        return self.size

    def read_bytes(self) -> bytes:
        """See `PackedImage.read_bytes`."""
        if self.loan is not None and (data := self.loan.use()) is not None:
            return data
        try:
            data = self.shard.read(self.offset, self.size)
        except Exception as error:  # each kind of storage has errors of its own
            raise ImageError(str(self), reason_of(error)) from error
        if len(data) != self.size:
            raise ImageError(str(self), f"{len(data):,} bytes of {self.size:,}: the shard is not what was indexed")
        return data
