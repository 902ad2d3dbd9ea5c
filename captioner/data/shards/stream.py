"""All images of a shard in their order, in one pass."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from captioner.data.shards.names import file_name
from captioner.data.shards.storage import Shard, ShardImage
from captioner.data.shards.tar import MAX_BYTES, files_of, is_image, opened, reason_of
from captioner.types import ImageError, PackedImage

READ_AHEAD = 32  # images


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
