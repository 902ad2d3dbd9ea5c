"""All images of a shard in their order, in one pass."""

from __future__ import annotations

import os
import tarfile
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import IO, BinaryIO

from captioner.data.images import MAX_BYTES, Budget, is_image
from captioner.data.shards.names import file_name, is_compressed, is_remote
from captioner.data.shards.storage import Loan, Shard, ShardImage
from captioner.data.shards.tar import files_of, head_of, opened, reason_of
from captioner.types import ImageError, PackedImage

READ_AHEAD = 32  # images
READ_AHEAD_BYTES = 1 << 28
"""Bytes of images that were read with their shard and have not been opened yet; images past that are read when they are
opened."""


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


def stream_shard(url: str) -> Iterator[PackedImage]:
    """The images of a tar file from the first to the last, in one pass.

    A few come ahead, while those before them are worked on. Images of a shard on this disk are read when they are
    opened. Those of a remote or a compressed shard come with their bytes, `READ_AHEAD_BYTES` at a time, and let go of
    them when they are opened; opened again, they are read from the shard again.

    All images are taken (see `is_image`), whatever their key, those included that cannot be read here; hidden files are
    not. A shard that cannot be opened, is damaged or cut short gives what could be read, and then one last image,
    called as the shard is, which cannot be opened: its error says why. Compressed tars are read too.

    Args:
        url: a path, or a URL that fsspec opens.
    """
    return _ahead(_stream(url), READ_AHEAD)


def _stream(url: str) -> Iterator[PackedImage]:
    shard = Shard(url)
    is_at_hand = not is_remote(url) and not is_compressed(url)
    allowance = Budget(READ_AHEAD_BYTES)
    try:
        with opened(url) as file:
            for member, content in files_of(file):
                if not is_image(member.name, partial(head_of, content)):
                    continue
                if is_at_hand:
                    _require_whole(member, file)
                if member.size > MAX_BYTES:
                    yield Unreadable(f"{url}/{member.name}", f"has {member.size:,} bytes: too large for an image")
                    continue
                loan = None if is_at_hand else _loan(content, member.size, allowance)
                yield ShardImage(shard, member.name, member.offset_data, member.size, loan)
    except Exception as error:  # each kind of storage has errors of its own
        yield Unreadable(url, reason_of(error))


def _require_whole(member: tarfile.TarInfo, file: BinaryIO) -> None:
    """Raise where a file on this disk ends before its member does."""
    if member.offset_data + member.size > os.fstat(file.fileno()).st_size:
        raise tarfile.ReadError("unexpected end of data")


def _loan(content: IO[bytes], num_bytes: int, allowance: Budget) -> Loan | None:
    """A file's bytes, if there is room for them."""
    return Loan(content.read(), allowance) if allowance.take(num_bytes) else None


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
