"""Data sets in tar shards."""

from __future__ import annotations

import glob
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from captioner.data.readers.base import Reader, require_there
from captioner.data.shards import Copies, Shard, ShardError, ShardImage, find_shards, index_place, is_remote
from captioner.data.shards.index import read_index
from captioner.data.shards.marks import SUFFIX as MARK
from captioner.data.shards.marks import unfinished_error
from captioner.files import in_threads
from captioner.texts import Ids
from captioner.types import CaptionedImage

THREADS = 16  # that look at many shards at once


@dataclass(frozen=True)
class Shards(Reader):
    """Images in WebDataset's shards with their indices, on this disk or elsewhere; see `captioner.data.shards`.

    `captioner shards` makes shards of any other data set, and indices for the shards of others.

    Attributes:
        shards: for each split, the pattern of its shards ({"train": "s3://bucket/train-{000000..000099}.tar"}), see
            `find_shards`.
        index: for each split, the folder of its shards' indices, a path or a URL; by default that of the shards.
        copies: a folder on this machine's disk to which a remote shard is copied before its images are read; it may be
            shared by processes and runs. By default each image is a request of its own.
        copies_gb: how much of that disk they may take, in 10^9 bytes; training reads from two or three times
            `data.open_shards` shards at a time.
    """

    shards: dict[str, str]
    index: dict[str, str] | None = None
    copies: str | None = None
    copies_gb: float = 50.0
    layouts: ClassVar[tuple[str, ...]] = (
        "shards: SPLIT-000000.tar, SPLIT-000001.tar, ... with their indices (`captioner shards` makes both)",
    )

    @classmethod
    def find(cls, root: Path) -> Reader | None:
        """See `Reader.find`."""
        for mark in root.glob(f"*{MARK}"):
            raise unfinished_error(root, mark.name.removesuffix(MARK))
        shards = {}
        for path in sorted(root.glob("*.tar")):
            name = re.fullmatch(r"(?:(.+)-)?\d+", path.stem)
            if name and Path(index_place(str(path))).is_file():
                split = name[1] or "all"
                pattern = f"{split}-[0-9]*.tar" if name[1] else "[0-9]*.tar"
                shards[split] = os.path.join(glob.escape(str(root)), pattern)
        return cls(shards) if shards else None

    def __post_init__(self) -> None:
        if self.index is not None and set(self.index) - set(self.shards):
            raise ValueError(f"index names splits that shards does not: {list(self.index)} and {list(self.shards)}")

    @property
    def splits(self) -> tuple[str, ...]:
        """The keys of `shards`."""
        return tuple(self.shards)

    def items(self, split: str) -> list[CaptionedImage]:
        """The images of a split, shard after shard.

        Raises:
            FileNotFoundError: a shard has no index, or there is no shard.
            ShardError: an index is damaged.
            ValueError: an image's id comes twice.
        """
        folder = None if self.index is None else self.index.get(split)
        copies = None if self.copies is None else Copies(self.copies, int(self.copies_gb * 1e9))
        home = os.path.dirname(self.shards[split])
        if not is_remote(home) and not glob.has_magic(home) and "{" not in home:
            require_there(home or ".", "shards")
        ids = Ids()
        items = []
        urls = find_shards(self.shards[split])
        for url, index in zip(urls, in_threads(lambda url: read_index(url, folder), urls, THREADS), strict=True):
            shard = Shard(url, index.num_bytes, copies if is_remote(url) else None)
            for entry in index.entries:
                image = ShardImage(shard, entry.image, entry.offset, entry.size)
                image_id = ids.add(entry.image_id, str(image))
                items.append(CaptionedImage(image_id, image, tuple(entry.captions)))
        return items

    def read(self, split: str, require_images: bool = True) -> list[CaptionedImage]:
        """See `Reader.read`; the shards must have the length that their indices know."""
        items = super().read(split, require_images)
        if require_images:
            shards = list(dict.fromkeys(item.path.shard for item in items if isinstance(item.path, ShardImage)))
            lengths = in_threads(lambda shard: _num_bytes(shard.url), shards, THREADS)
            for shard, num_bytes in zip(shards, lengths, strict=True):
                if num_bytes is not None and num_bytes != shard.num_bytes:
                    raise ShardError(
                        f"{shard.url}: has {num_bytes:,} bytes, and had {shard.num_bytes:,} when it was indexed: "
                        f"`captioner shards` makes its index anew"
                    )
                if shard.copies is not None and shard.num_bytes > shard.copies.max_bytes:
                    raise ShardError(f"{shard.url}: {shard.num_bytes:,} bytes do not fit in copies_gb={self.copies_gb}")
        return items


def _num_bytes(url: str) -> int | None:
    """A shard's length; None where a server does not tell."""
    if not is_remote(url):
        return os.stat(url).st_size
    from fsspec.core import url_to_fs

    system, path = url_to_fs(url)
    return system.size(path)
