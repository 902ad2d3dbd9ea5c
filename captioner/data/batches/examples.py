"""From an item to an example, and from examples to a batch."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from captioner.data.batches.captions import EncodedCaptions, pad_captions
from captioner.seeds import stable_seed
from captioner.types import Batch, InputError, Item, Memory, Source

Place = tuple[int, int]
"""(epoch, index) of one image: the epoch travels with it to the worker that loads it."""


class Example(NamedTuple):
    """One image with its captions.

    Attributes:
        loaded: what the source gave.
        captions: at most K arrays of word ids, the end word included.
        item: the image as its reader gave it.
    """

    loaded: Any
    captions: list[np.ndarray]
    item: Item


class Problem(NamedTuple):
    """Why an image could not be loaded; it travels from a worker to the main process as a value, so that the
    error that is raised there is one readable line.
    """

    message: str


class CaptionDataset(Dataset):
    """Images with their encoded captions, by (epoch, index).

    Args:
        items: the images.
        captions: their captions.
        source: loads what the model looks at.
        captions_per_image: where an image has more, a sample of so many, drawn anew every epoch
            from (seed, epoch, index); None takes all of them.
        seed: of that sample.
    """

    def __init__(
        self,
        items: Sequence[Item],
        captions: EncodedCaptions,
        source: Source,
        captions_per_image: int | None = None,
        seed: int = 0,
    ) -> None:
        self.items = items
        self.captions = captions
        self.source = source
        self.captions_per_image = captions_per_image
        self.seed = seed

    def __len__(self) -> int:
        """The number of images."""
        return len(self.items)

    def __getitem__(self, place: Place) -> Example | Problem:
        """Load one image; a problem with it comes back as a value."""
        epoch, index = place
        item = self.items[index]
        captions = self.captions.of_image(index)
        if self.captions_per_image is not None and len(captions) > self.captions_per_image:
            rng = random.Random(stable_seed("captions", self.seed, epoch, index))
            captions = rng.sample(captions, self.captions_per_image)
        try:
            return Example(self.source.load(item, epoch, index), captions, item)
        except InputError as error:
            return Problem(str(error))


@dataclass(frozen=True)
class HostBatch(Batch):
    """A batch in the host's memory, which a loader may pin."""

    def pin_memory(self) -> HostBatch:
        """The same batch in page-locked memory, from which a copy to a GPU can run beside its work."""
        source = self.source
        source = source.map(Tensor.pin_memory) if isinstance(source, Memory) else source.pin_memory()
        return replace(self, source=source, tokens=self.tokens.pin_memory())


def move(batch: Batch, device: torch.device) -> Batch:
    """The same batch on another device; the copy runs beside other work where its memory is pinned."""
    return Batch(
        batch.source.to(device, non_blocking=True),
        batch.tokens.to(device, non_blocking=True),
        batch.lengths,
        batch.items,
    )


class Collate:
    """Makes a batch of examples, longest captions first: images by their longest, each image's by length.

    Args:
        source: the source that loaded them.
    """

    def __init__(self, source: Source) -> None:
        self.source = source

    def __call__(self, examples: Sequence[Example | Problem]) -> HostBatch | Problem:
        """Join examples; the first problem among them, if there is one."""
        good: list[Example] = []
        for example in examples:
            if isinstance(example, Problem):
                return example
            good.append(example._replace(captions=sorted(example.captions, key=len, reverse=True)))
        good.sort(key=lambda example: len(example.captions[0]) if example.captions else 0, reverse=True)
        tokens, lengths = pad_captions([example.captions for example in good])
        source = self.source.stack([example.loaded for example in good])
        return HostBatch(source, tokens, lengths, [example.item for example in good])
