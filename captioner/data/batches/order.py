"""Which images make which batch, in every epoch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np


class EpochBatches(Protocol):
    """Which images make which batch, in every epoch."""

    def __len__(self) -> int:
        """Batches of an epoch."""

    def of_epoch(self, epoch: int) -> list[list[int]]:
        """The batches of an epoch, as indices of images."""

    @property
    def settings(self) -> dict[str, int]:
        """What the batches of all processes together depend on, beside the images."""


class BucketedBatches:
    """Shuffled batches of images whose longest captions are about alike.

    Images are shuffled, sorted by their longest caption inside windows of `window` batches, and cut into
    batches, whose order is shuffled again. With several processes the batches of one step are cut together
    and dealt out like cards, so that all processes work on captions of the same lengths; all of them have the
    same number of batches. The images of a step are those that one process with batches as large as all together
    would have.

    Nothing is left out: where the number of images is no multiple, batches are evened out instead (188 batches
    of 31 or 32 images rather than 187 of 32 and one of 16; those of a step differ by one image at most). Nothing is
    seen twice, unless there were less than one image for each process in a step.

    Images that lie in shards are not read from all of them at a time: shards are begun in a random order, and the
    images of each are spread over the time in which the next `open_shards` are begun. So the images of a batch come
    from that many shards, and those of neighbouring batches from two or three times as many. With no more shards than
    that the order is fully random.

    Args:
        longest: (N,) each image's longest caption.
        batch_size: the most images of a batch, per process.
        seed: of the shuffling, with the epoch.
        window: batches per window: larger ones save padding, smaller ones are more random.
        rank: this process.
        world_size: how many processes there are.
        shards: (N,) the number of each image's shard; None where all images are alike to reach.
        open_shards: from how many shards images are mixed.
    """

    def __init__(
        self,
        longest: Sequence[int] | np.ndarray,
        batch_size: int,
        seed: int = 0,
        window: int = 32,
        rank: int = 0,
        world_size: int = 1,
        shards: Sequence[int] | np.ndarray | None = None,
        open_shards: int = 8,
    ) -> None:
        if len(longest) == 0:
            raise ValueError("there is no image to make batches of")
        for name, value in (("batch_size", batch_size), ("window", window), ("open_shards", open_shards)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        self.longest = np.asarray(longest)
        self.batch_size = batch_size
        self.seed = seed
        self.window = window
        self.rank = rank
        self.world_size = world_size
        self.shards = np.zeros(len(self.longest), dtype=np.int64) if shards is None else np.asarray(shards)
        self.num_shards = int(self.shards.max()) + 1
        self.open_shards = min(open_shards, self.num_shards)

    def __len__(self) -> int:
        """Batches of an epoch, the same for every process."""
        return -(-len(self.longest) // (self.batch_size * self.world_size))

    def of_epoch(self, epoch: int) -> list[list[int]]:
        """This process's batches of an epoch, as indices of images."""
        rng = np.random.default_rng([self.seed, epoch])
        order = self._order(rng)
        order = np.concatenate([order, np.resize(order, max(0, len(self) * self.world_size - len(order)))])
        cuts = np.arange(len(self) + 1) * len(order) // len(self)
        for start in range(0, len(self), self.window):
            in_window = slice(cuts[start], cuts[min(start + self.window, len(self))])
            images = order[in_window]
            order[in_window] = images[np.argsort(-self.longest[images], kind="stable")]
        batches = rng.permutation(len(self))
        block = max(1, len(self) * self.open_shards // self.num_shards)  # batches are shuffled among those near them
        batches = batches[np.argsort(batches // block, kind="stable")]
        return [order[cuts[i] + self.rank : cuts[i + 1] : self.world_size].tolist() for i in batches]

    @property
    def settings(self) -> dict[str, int]:
        """See `EpochBatches.settings`."""
        return {
            "batch_size (of all processes)": self.batch_size * self.world_size,
            "seed": self.seed,
            "bucket_window": self.window,
            "open_shards": self.open_shards,
        }

    def _order(self, rng: np.random.Generator) -> np.ndarray:
        """(N,) the images in a random order that reads from few shards at a time.

        One shard is begun in every unit of time; an image of it comes at a random moment of the `open_shards` units
        that follow. What would come after the last unit comes in the first ones instead, so that they are as full.
        """
        order = rng.permutation(len(self.longest))
        begun = rng.permutation(self.num_shards)[self.shards[order]]  # (N,)
        moment = np.arange(len(order)) / len(order) * self.open_shards
        return order[np.argsort((begun + moment) % self.num_shards, kind="stable")]


class OrderedBatches:
    """Every image once, in its reader's order, dealt out to processes without doubling any.

    Processes may have different numbers of batches. Lightning wants one of each at least: where there are fewer images
    than processes, those that are left over see one that another has, in the same batch of one.

    Args:
        num_images: N.
        batch_size: the most images of a batch, per process.
        rank: this process.
        world_size: how many processes there are.
    """

    def __init__(self, num_images: int, batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}")
        self.settings = {"batch_size (of all processes)": batch_size * world_size}
        self.mine = range(rank % num_images if num_images else 0, num_images, world_size)
        self.batch_size = batch_size

    def __len__(self) -> int:
        """Batches of this process."""
        return -(-len(self.mine) // self.batch_size)

    def of_epoch(self, epoch: int) -> list[list[int]]:
        """The same batches in every epoch."""
        size = self.batch_size
        return [list(self.mine[start : start + size]) for start in range(0, len(self.mine), size)]
