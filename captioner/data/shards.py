"""Images in tar files, as WebDataset's shards have them: one by one at random, or all in their order; here or remote.

A shard is a plain tar: for each sample `KEY.jpg` (an image file of any format), and `KEY.json` or `KEY.txt` with its
captions. Remote is whatever fsspec opens: `s3://`, `gs://`, `https://`, ...

Tars are read with the standard library: it says where in a tar a file lies, which is what reading at random takes. And
nothing that lies in a shard is run, unpickled or written to the disk; WebDataset's own decoders unpickle, and its
`pipe:` URLs are programs.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import os
import re
import tarfile
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, BinaryIO

from captioner.data.images import IMAGE_SUFFIXES, ImageError
from captioner.types import PackedImage

COPY_SUFFIX = ".captioner-copy"  # no other file is removed from a folder of copies
SHARD_SUFFIXES = (".tar", ".tar.gz", ".tar.bz2", ".tar.xz")
ABANDONED = 6 * 3600  # seconds since a copy that is being made has grown
OPEN_FILES = 16  # of each thread that reads images
READ_AHEAD = 32  # images
MAX_BYTES = 1 << 28
"""Files in a shard of more bytes are no images, and are not read."""


# ------------------------------------------------------------------------------------------ names


def is_remote(place: str) -> bool:
    """Whether it is a URL, for fsspec to open."""
    return "://" in place


def file_name(place: str) -> str:
    """What stands behind the last slash of a path or a URL; a URL's query is not of it."""
    return (place.partition("?")[0] if is_remote(place) else place).rpartition("/")[2]


def is_shard(place: str) -> bool:
    """Whether a path, URL or pattern is of tar files, by its suffix."""
    return file_name(place).lower().endswith(SHARD_SUFFIXES)


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
    """
    if pattern.startswith("pipe:"):
        raise ValueError(f"{pattern}: programs are not run here; give a path, or a URL that fsspec opens")
    if os.path.exists(pattern):
        return [pattern]
    found = [match for choice in _choices(pattern) for match in _matches(choice)]
    if not found:
        raise FileNotFoundError(f"{pattern}: no shard matches this pattern")
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


# ------------------------------------------------------------------------------------------ images in a shard


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
        Path(self.folder).mkdir(parents=True, exist_ok=True)
        with _locked(Path(self.folder) / f"{digest[:2]}.lock"):  # one process copies a shard, and others wait for it
            with contextlib.suppress(FileNotFoundError):
                return _used_now(path)
            return self._copy(shard, path)

    def _copy(self, shard: Shard, path: Path) -> BinaryIO:
        from fsspec.core import url_to_fs

        with _locked(path.with_name("room.lock")):
            self._make_room(shard.num_bytes)
        partial = path.with_name(f"{path.name}.part")
        try:
            system, remote = url_to_fs(shard.url)
            system.get_file(remote, str(partial))
            if partial.stat().st_size != shard.num_bytes:
                raise OSError(f"{partial.stat().st_size:,} bytes came, and the index says {shard.num_bytes:,}")
            file = open(partial, "rb")  # noqa: SIM115 (closed by who asked for it)
            partial.replace(path)
            return file
        finally:
            partial.unlink(missing_ok=True)

    def _make_room(self, num_bytes: int) -> None:
        found = []
        for path in Path(self.folder).glob(
            f"*{COPY_SUFFIX}.part"
        ):  # of processes that were killed, unless it is at work
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


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Wait for a lock, and hold it; the system lets go of it when the process ends, however it ends."""
    import fcntl  # not on Windows

    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@dataclass(frozen=True, slots=True)
class ShardImage(PackedImage):
    """An image file in a shard.

    Attributes:
        shard: the shard.
        member: the file's name in it.
        offset: where in the shard it begins, in bytes.
        size: its length in bytes.
        data: the file itself, where the shard is streamed.
    """

    shard: Shard
    member: str
    offset: int
    size: int
    data: bytes | None = field(default=None, repr=False, compare=False)

    def __str__(self) -> str:
        return f"{self.shard.url}/{self.member}"

    @property
    def name(self) -> str:
        """See `PackedImage.name`."""
        return file_name(self.member)

    def read_bytes(self) -> bytes:
        """See `PackedImage.read_bytes`."""
        if self.data is not None:
            return self.data
        try:
            data = self.shard.read(self.offset, self.size)
        except Exception as error:  # each kind of storage has errors of its own
            raise ImageError(str(self), reason_of(error)) from error
        if len(data) != self.size:
            raise ImageError(str(self), f"{len(data):,} bytes of {self.size:,}: the shard is not what was indexed")
        return data


@dataclass(frozen=True)
class Unreadable(PackedImage):
    """Stands in a stream for what cannot be read: opening it is the error.

    Attributes:
        place: a shard, or a file in one.
        reason: why not, in one line.
    """

    place: str
    reason: str

    def __str__(self) -> str:
        return self.place

    @property
    def name(self) -> str:
        """See `PackedImage.name`."""
        return file_name(self.place)

    def read_bytes(self) -> bytes:
        """Raises `ImageError`."""
        raise ImageError(self.place, self.reason)


# ------------------------------------------------------------------------------------------ streaming


def stream_shard(url: str) -> Iterator[PackedImage]:
    """The images of a tar file from the first to the last, each with its bytes, in one pass.

    A few come ahead, while those before them are worked on.

    All files whose suffix is an image's are taken, whatever their key; hidden ones are not. A shard that cannot be
    opened, is damaged or cut short gives what could be read, and then one last image, called as the shard is, which
    cannot be opened: its error says why. Compressed tars are read too.

    Args:
        url: a path, or a URL that fsspec opens.
    """
    return _ahead(_stream(url), READ_AHEAD)


def _stream(url: str) -> Iterator[PackedImage]:
    shard = Shard(url)
    try:
        with opened(url) as file:
            for member, content in files_of(file):
                if not is_image(member.name):
                    continue
                if member.size > MAX_BYTES:
                    yield Unreadable(f"{url}/{member.name}", f"has {member.size:,} bytes: too large for an image")
                else:
                    yield ShardImage(shard, member.name, member.offset_data, member.size, content.read())
    except Exception as error:  # each kind of storage has errors of its own
        yield Unreadable(url, reason_of(error))


def _ahead(images: Iterator[PackedImage], count: int) -> Iterator[PackedImage]:
    """The same, so many of them ahead of who takes them, read by one thread."""
    pool = ThreadPoolExecutor(1)
    try:
        coming = deque(pool.submit(next, images, None) for _ in range(count))
        while (image := coming.popleft().result()) is not None:
            coming.append(pool.submit(next, images, None))
            yield image
    finally:  # not waiting for the network, where only the first images were wanted
        pool.shutdown(wait=False, cancel_futures=True)


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
