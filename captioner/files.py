"""Files written whole or not at all, folders held for writing, many files at once."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TypeVar

S = TypeVar("S")
T = TypeVar("T")


class LockedError(ValueError):
    """A folder that another process is writing to."""


@contextmanager
def whole_file(path: Path, workshop: Path | None = None) -> Iterator[BinaryIO]:
    """A file to write that comes to be when it is whole, and on the disk.

    Args:
        path: the file; one that is there already stays as it is until then.
        workshop: the folder where it lies until then, on the same disk, made where it is missing; by default its own.
    """
    workshop = workshop or path.parent
    unfinished = workshop / f"{path.name}-{uuid.uuid4().hex}.part"
    workshop.mkdir(parents=True, exist_ok=True)
    try:
        with open(unfinished, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def in_threads(function: Callable[[S], T], values: Iterable[S], num_threads: int) -> Iterator[T]:
    """What a function says of each value, in their order; several at once, as it waits for a disk or a network."""
    with ThreadPoolExecutor(num_threads) as pool:
        yield from pool.map(function, values)


@contextmanager
def locked(folder: Path, wait: bool = False) -> Iterator[None]:
    """Hold a folder for writing; the system lets go of it however the process ends.

    Args:
        folder: the folder, made where it is missing.
        wait: whether to wait where another process holds it.

    Raises:
        LockedError: another process holds it.
    """
    import fcntl  # not on Windows, where a folder can be read but not written

    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise LockedError(f"{folder}: another process is writing to it; wait until it has finished") from error
        yield
