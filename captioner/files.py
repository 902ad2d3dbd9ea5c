"""Files written whole or not at all, folders held for writing, many files at once."""

from __future__ import annotations

import io
import os
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

ASIDE = ".part"
"""How the names end of files that are not whole yet."""

S = TypeVar("S")
T = TypeVar("T")


class LockedError(ValueError):
    """A folder that another process is writing to."""


@contextmanager
def whole_file(path: str | Path, workshop: Path | None = None) -> Iterator[BinaryIO]:
    """A file to write that comes to be when it is whole, and on the disk.

    What a process that was killed has left aside of the same file is removed.

    Args:
        path: the file, whose folder is made where it is missing; one that is there already stays as it is until then.
            What a link leads to is replaced, not the link; a device or a pipe is written to as it is.
        workshop: the folder where it lies until then, on the same disk, made where it is missing; by default its own.
    """
    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_file():
        with open(path, "wb") as file:
            yield file
        return
    workshop = workshop or path.parent
    for folder in (workshop, path.parent):
        folder.mkdir(parents=True, exist_ok=True)
    remove_abandoned(workshop, path.name)
    unfinished = workshop / f".{path.name}-{uuid.uuid4().hex}{ASIDE}"
    try:
        with open(unfinished, "wb") as file:
            _hold(file)
            yield file
            file.flush()
            os.fsync(file.fileno())
            os.replace(unfinished, path)  # held until it has its name
        _sync_folder(path.parent)
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


def remove_abandoned(folder: Path, name: str | None = None) -> None:
    """Remove the files that processes which were killed have left aside in a folder.

    Args:
        folder: see `whole_file`'s workshop.
        name: of the file that they were to become; by default any.
    """
    if fcntl is None:
        return  # nothing says whether somebody is at work on them
    prefix = "." if name is None else f".{name}-"
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        found = [entry.path for entry in entries if entry.name.startswith(prefix) and entry.name.endswith(ASIDE)]
        for path in found:
            with suppress(OSError), open(path, "rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # nobody holds it
                os.unlink(path)


def _hold(file: BinaryIO) -> None:
    """Let others know that a file is being written."""
    if fcntl is not None:
        fcntl.flock(file, fcntl.LOCK_EX)


def _sync_folder(folder: Path) -> None:
    """Have a file's new name on the disk too, where folders can be opened for that (not on Windows)."""
    if os.name == "posix":
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
        yield
