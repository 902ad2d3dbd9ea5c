"""Reading photos ahead of the model."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

from captioner.data.images import ImageSource
from captioner.types import InputError, Opened

MAX_THREADS = 32  # that read photos
T = TypeVar("T", bound=ImageSource)


def prefetch(
    images: Iterable[T], read: Callable[[T], Opened], batch_size: int, threads: int
) -> Iterator[list[tuple[T, Opened | InputError]]]:
    """Read batches of photos in threads, one batch ahead of the model."""

    def attempt(image: T) -> Opened | InputError:
        try:
            return read(image)
        except InputError as error:
            return error

    source = iter(images)
    pool = ThreadPoolExecutor(threads)  # Pillow decodes beside other threads
    reading: deque[tuple[T, Future[Opened | InputError]]] = deque()

    def start(count: int) -> None:
        reading.extend((image, pool.submit(attempt, image)) for image in islice(source, count))

    try:
        start(batch_size)
        while reading:
            batch: list[tuple[T, Opened | InputError]] = []
            while reading and len(batch) < batch_size:
                image, future = reading.popleft()
                batch.append((image, future.result()))
                start(1)  # at once, so that no thread waits for the slowest photo of a batch
            yield batch
            batch.clear()  # what was captioned is not held while the next ones are read
    finally:  # not waiting: a stream that is left half read is closed by the garbage collector, in whichever thread
        pool.shutdown(wait=False, cancel_futures=True)
