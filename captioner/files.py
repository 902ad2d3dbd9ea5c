"""Files written whole or not at all, folders held for writing, many files at once."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import platform
import re
import stat
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, TextIO, TypeVar

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

ASIDE = ".captioner-part"
"""How the names end of files that are not whole yet."""

EARLIER_ASIDE = re.compile(
    r"\.[0-9a-f]{32}\.tmp|.+\.safetensors\.\d+\.tmp|\..+\.ckpt\.tmp|cache\.json\.tmp|\..+\.tar\.part|"
    r"\.[0-9a-f]{16}\.captioner-lock"
)
"""What earlier versions called them; and the locks of `held`."""

ABANDONED = 24 * 3600
"""Seconds without a byte after which a file aside is nobody's, where no lock says whether it is."""

_VANISHED = "the folder was removed while a command was writing to it: what it held is lost"

_TIDY: set[tuple[int, Path]] = set()
"""Processes, and folders in which they have removed what others left aside: once, as a folder may be large."""

S = TypeVar("S")
T = TypeVar("T")


class LockedError(ValueError):
    """A folder that another process is writing to."""


@contextmanager
def whole_file(path: str | Path, workshop: Path | None = None) -> Iterator[BinaryIO]:
    """A file to write that comes to be when it is whole, and on the disk.

    What processes that were killed have left aside in the folder is removed, once.

    Args:
        path: the file, whose folder is made where it is missing; one that is there already stays as it is until then.
            What a link leads to is replaced, not the link; a device or a pipe is written to as it is.
        workshop: the folder where it lies until then, on the same disk, made where it is missing; by default its own.
    """
    if os.path.exists(path) and not os.path.isfile(path):
        with open(path, "wb") as device:
            yield device
        return
    path = Path(os.path.realpath(path))
    workshop = workshop or path.parent
    for folder in (workshop, path.parent):
        folder.mkdir(parents=True, exist_ok=True)
    if (os.getpid(), workshop) not in _TIDY:
        sweep(workshop)
        _TIDY.add((os.getpid(), workshop))
    unfinished, file = _aside(workshop)
    try:
        with file:
            if path.exists() and hasattr(os, "fchmod"):
                os.fchmod(file.fileno(), stat.S_IMODE(path.stat().st_mode))
            yield file
            file.flush()
            os.fsync(file.fileno())
            if fcntl is not None:
                _put(unfinished, path)  # held until it has its name
        if fcntl is None:
            _put(unfinished, path)  # Windows moves no file that is open
        _sync_folder(path.parent)
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)  # a disk that is full does not say of which file
        raise
    finally:
        unfinished.unlink(missing_ok=True)


@contextmanager
def whole_text(path: str | Path, newline: str | None = None) -> Iterator[TextIO]:
    """`whole_file` for text in UTF-8; what UTF-8 does not have (of file names, say) is written with a backslash.

    Args:
        path: see `whole_file`.
        newline: see `open`.
    """
    with whole_file(path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", errors="backslashreplace", newline=newline)
        try:
            yield text
        finally:
            text.detach()  # flushed, and not closed with the text


def write_whole(path: str | Path, content: str | bytes) -> None:
    """Write all of a file at once, see `whole_file`; text in UTF-8."""
    with whole_file(path) as file:
        file.write(content if isinstance(content, bytes) else content.encode("utf-8", "backslashreplace"))


def sweep(folder: str | Path) -> None:
    """Remove what killed processes have left aside in a folder (see `whole_file`), those of earlier versions too.

    A process holds its file by a lock for as long as it writes. Of a file that a process on this machine made, the lock
    says for certain whether the process is still there. Other machines' locks may not reach this one, and earlier
    versions had none: their files are removed when nothing has been written to them for a day.

    Args:
        folder: nothing is done where it does not exist or cannot be listed.
    """
    with suppress(OSError), os.scandir(folder) as entries:
        for name in [entry.name for entry in entries]:
            if name.endswith(ASIDE) or EARLIER_ASIDE.fullmatch(name):
                with suppress(OSError):  # it may not be removed by us, or another process was faster
                    _remove_abandoned(os.path.join(folder, name), is_ours=name.startswith(_mark()))


def _remove_abandoned(path: str, is_ours: bool) -> None:
    """Remove a file that lies aside, unless a process is at work on it, or may be."""
    with open(path, "r+b") as file:  # NFS locks no file that is open for reading alone
        lock_tells = fcntl is not None and is_ours
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return
            except OSError:  # a file system without locks
                lock_tells = False
        is_nobodys = lock_tells or time.time() - os.fstat(file.fileno()).st_mtime > ABANDONED
        if is_nobodys and fcntl is not None:
            os.unlink(path)  # while it is held
    if is_nobodys and fcntl is None:
        os.unlink(path)  # Windows removes no file that is open


def _mark() -> str:
    """How the names begin of files that processes of this machine have aside."""
    return f".{hashlib.sha256(platform.node().encode()).hexdigest()[:8]}-"


def _aside(folder: Path) -> tuple[Path, BinaryIO]:
    """A new file that lies aside, held while it is open, so that others leave it alone."""
    while True:
        path = folder / f"{_mark()}{uuid.uuid4().hex}{ASIDE}"
        file = open(path, "wb")  # noqa: SIM115 (closed by who asked for it)
        if fcntl is not None:
            with suppress(OSError):  # a file system without locks, where nothing fresh is removed either
                fcntl.flock(file, fcntl.LOCK_EX)
        with suppress(FileNotFoundError):  # another process took it for abandoned before it was held
            if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                return path, file
        file.close()


def _put(unfinished: Path, path: Path) -> None:
    """Give a file that lies aside its name."""
    try:
        os.replace(unfinished, path)
    except FileNotFoundError as error:
        raise FileNotFoundError(errno.ENOENT, _VANISHED, str(path.parent)) from error


def _sync_folder(folder: Path) -> None:
    """Have a file's new name on the disk too, where folders can be opened for that (not on Windows)."""
    if os.name == "posix":
        with suppress(OSError):  # not all file systems can; the file is there in any case
            descriptor = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def in_threads(function: Callable[[S], T], values: Iterable[S], num_threads: int) -> Iterator[T]:
    """What a function says of each value, in their order; several at once, as it waits for a disk or a network."""
    with ThreadPoolExecutor(num_threads) as pool:
        yield from pool.map(function, values)


@contextmanager
def locked(folder: str | Path, wait: bool = False, name: str = "lock") -> Iterator[None]:
    """Hold a folder for writing; the system lets go of it however the process ends.

    Args:
        folder: the folder, made where it is missing.
        wait: whether to wait where another process holds it.
        name: of the lock, where different things in a folder are held apart.

    Raises:
        LockedError: another process holds it.
    """
    if fcntl is None:
        raise OSError(f"{folder}: this system (Windows, say) has no locks of files, so it cannot be written to here")
    Path(folder).mkdir(parents=True, exist_ok=True)
    with open(Path(folder) / name, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise LockedError(f"{folder}: another process is writing to it; wait until it has finished") from error
        try:
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)  # a child that was forked meanwhile would hold on to it


@contextmanager
def held(path: str | Path) -> Iterator[None]:
    """Hold a name in a folder, so that no other process writes to a file of that name meanwhile.

    The system lets go of it however the process ends, and nothing stays behind. A device or a pipe is not held; nor is
    anything where there are no locks (on Windows, say).

    Args:
        path: of a file, or the name that several files begin with; its folder is made where it is missing.

    Raises:
        LockedError: another process holds it.
    """
    if fcntl is None or (os.path.exists(path) and not os.path.isfile(path)):
        yield
        return
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]
    lock = path.with_name(f".{digest}.captioner-lock")
    while True:
        with open(lock, "w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise LockedError(f"{path}: another process is writing to it; wait until it has finished") from error
            except OSError:  # a file system without locks
                lock.unlink(missing_ok=True)
                yield
                return
            try:
                if not os.path.samestat(os.fstat(file.fileno()), os.stat(lock)):
                    continue  # another process has just let go of it
            except FileNotFoundError:
                continue
            try:
                yield
            finally:
                lock.unlink(missing_ok=True)
                fcntl.flock(file, fcntl.LOCK_UN)  # a child that was forked meanwhile would hold on to it
            return


@contextmanager
def kept(folder: str | Path) -> Iterator[Callable[[], None]]:
    """Make sure that a folder stays where it is while several files are written to it, one after another.

    Args:
        folder: is made where it is missing.

    Returns:
        What raises if the folder is no longer there; it is called at the end, too.

    Raises:
        FileNotFoundError: the folder was removed, or another has taken its place.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    held_open = os.open(folder, os.O_RDONLY) if os.name == "posix" else None  # its number cannot be given to another
    before = os.stat(folder)

    def check() -> None:
        with suppress(FileNotFoundError):
            if os.path.samestat(os.stat(folder), before):
                return
        raise FileNotFoundError(errno.ENOENT, _VANISHED, str(folder))

    try:
        yield check
        check()
    finally:
        if held_open is not None:
            os.close(held_open)
