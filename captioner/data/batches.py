"""Image-major batches: an image is loaded, moved and encoded once for its K captions.

Sentences that are read in place of images go the same way: where it says image, it may be one of them.
Images of alike caption length share a batch, and inside a batch longer captions come first, so that
a decoder spends nothing on rows that have ended. What is in a batch depends on (seed, epoch) alone and
the loader knows which batches were used, so that a training run that was cut off goes on where it was.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from captioner.data.images import InputError
from captioner.data.transforms import Augmentation, ImageTransform
from captioner.tokenizer import Tokenizer
from captioner.types import Batch, CaptionedImage, Item, Memory

Place = tuple[int, int]
"""(epoch, index) of one image: the epoch travels with it to the worker that loads it."""

ItemOfKind = TypeVar("ItemOfKind", bound=Item, contravariant=True)
Loaded = TypeVar("Loaded")


def stable_seed(*parts: int | str) -> int:
    """A seed of 63 bits made from these parts, the same on every machine and in every process."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big") >> 1


class EncodedCaptions:
    """The token ids of all captions of a data set, in one array (worker processes share it).

    Captions end with the end word, but for those longer than `max_words`: these are cut there and, as they do
    not end there, have none. Captions without words are left out.

    Args:
        items: the images with their captions.
        tokenizer: makes ids of captions.
        max_words: the most words that are kept of a caption.
    """

    def __init__(self, items: Sequence[Item], tokenizer: Tokenizer, max_words: int) -> None:
        if max_words < 1:
            raise ValueError(f"max_words must be at least 1, not {max_words}")
        flat: list[int] = []
        caption_ends, image_ends = [0], [0]
        self.num_cut = 0
        for item in items:
            for caption in item.captions:
                words = tokenizer.encode(caption)
                if not words:
                    continue
                self.num_cut += len(words) > max_words
                flat += [*words, tokenizer.eos_id][: max_words + (len(words) <= max_words)]
                caption_ends.append(len(flat))
            image_ends.append(len(caption_ends) - 1)
        self.flat = np.array(flat, dtype=np.int32)
        self.caption_ends = np.array(caption_ends, dtype=np.int64)
        self.image_ends = np.array(image_ends, dtype=np.int64)

    def __len__(self) -> int:
        """The number of images."""
        return len(self.image_ends) - 1

    def of_image(self, index: int) -> list[np.ndarray]:
        """The captions of one image, in its reader's order: arrays of word ids, the end word included."""
        captions = range(self.image_ends[index], self.image_ends[index + 1])
        return [self.flat[self.caption_ends[i] : self.caption_ends[i + 1]] for i in captions]

    def longest(self) -> np.ndarray:
        """(N,) the length of each image's longest caption, the end word included; 0 where it has none."""
        lengths = np.diff(self.caption_ends)
        bounds = zip(self.image_ends[:-1], self.image_ends[1:], strict=True)
        return np.array([lengths[start:end].max(initial=0) for start, end in bounds], dtype=np.int64)


class Source(Protocol[ItemOfKind, Loaded]):
    """Where what a model looks at comes from: image files, features that were computed before, sentences."""

    def load(self, item: ItemOfKind, epoch: int, index: int) -> Loaded:
        """One image's pixels or features, or one sentence's ids.

        Raises:
            ImageError: the image cannot be read, or has no features.
            TextError: the sentence has no words.
        """

    def stack(self, loaded: list[Loaded]) -> Tensor | Memory:
        """What a batch of them is to the model."""


class ImageFiles:
    """Image files as a source: opened, augmented (in training), fitted to the encoder's square.

    Args:
        transform: fits them.
        augmentation: random changes before it, drawn from (seed, epoch, index); None for evaluation.
        seed: of the augmentation.
    """

    def __init__(self, transform: ImageTransform, augmentation: Augmentation | None = None, seed: int = 0) -> None:
        self.transform = transform
        self.augmentation = augmentation
        self.seed = seed

    def load(self, item: CaptionedImage, epoch: int, index: int) -> Tensor:
        """(3, S, S) uint8 pixels; see `Source.load`."""
        if self.augmentation is None:
            photo = self.transform.open(item.path)
            return self.transform(photo.pixels, photo.box)
        photo = self.transform.open(item.path, self.augmentation.least_share)
        seed = stable_seed("augmentation", self.seed, epoch, index)
        return self.transform(self.augmentation(photo.pixels, seed))

    def stack(self, loaded: list[Tensor]) -> Tensor:
        """(B, 3, S, S) uint8 pixels."""
        return torch.stack(loaded)


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


def pad_captions(captions: Sequence[Sequence[np.ndarray]]) -> tuple[Tensor, Tensor]:
    """Captions of B images as one tensor.

    Args:
        captions: for each image its captions, any number, as arrays of word ids with their end word.

    Returns:
        tokens (B, K, T + 1) int64: begin word, words, end word, padding; lengths (B, K) int64: the words to
        predict, 0 for a missing caption. K and T are at least 1.
    """
    num_captions = max([1, *(len(of_image) for of_image in captions)])
    num_words = max([1, *(len(words) for of_image in captions for words in of_image)])
    tokens = np.full((len(captions), num_captions, num_words + 1), Tokenizer.pad_id, dtype=np.int64)
    lengths = np.zeros((len(captions), num_captions), dtype=np.int64)
    tokens[:, :, 0] = Tokenizer.bos_id
    for row, of_image in enumerate(captions):
        for column, words in enumerate(of_image):
            tokens[row, column, 1 : len(words) + 1] = words
            lengths[row, column] = len(words)
    return torch.from_numpy(tokens), torch.from_numpy(lengths)


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


class EpochBatches(Protocol):
    """Which images make which batch, in every epoch."""

    def __len__(self) -> int:
        """Batches of an epoch."""

    def of_epoch(self, epoch: int) -> list[list[int]]:
        """The batches of an epoch, as indices of images."""


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
        self.mine = range(rank % num_images if num_images else 0, num_images, world_size)
        self.batch_size = batch_size

    def __len__(self) -> int:
        """Batches of this process."""
        return -(-len(self.mine) // self.batch_size)

    def of_epoch(self, epoch: int) -> list[list[int]]:
        """The same batches in every epoch."""
        size = self.batch_size
        return [list(self.mine[start : start + size]) for start in range(0, len(self.mine), size)]


class LoadError(ValueError):
    """An image, or a sentence, of a data set could not be loaded."""


class _PlaceBatches(Sampler):
    """The batches that come next, in the form that torch's loader asks for.

    The position is kept here and not in the loader: with a reference back to the loader, workers would be
    ended by the garbage collector, when it is too late to tell them.
    """

    def __init__(self, batches: EpochBatches) -> None:
        self.batches = batches
        self.epoch = 0
        self.num_used = 0

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[Place]]:
        epoch = self.epoch
        return iter([[(epoch, index) for index in batch] for batch in self.batches.of_epoch(epoch)[self.num_used :]])


class BatchLoader:
    """Loads batches, in worker processes, from the first to the last whenever it is iterated.

    It draws no global random numbers: how many are drawn would depend on when workers are started.

    Args:
        dataset: examples or problems by (epoch, index).
        batches: which images make which batch.
        collate: makes a `Batch` of a list of what the data set gives.
        num_workers: processes that load; they live as long as the loader. 0 loads in this process.
        pin_memory: whether batches come in page-locked memory, for copies to a GPU.
    """

    def __init__(
        self,
        dataset: Dataset,
        batches: EpochBatches,
        collate: Callable[[list[Any]], Batch | Problem],
        num_workers: int = 0,
        pin_memory: bool = False,
    ) -> None:
        self.dataset = dataset
        self.batches = batches
        self.upcoming = _PlaceBatches(batches)
        self.loader = DataLoader(
            dataset,
            batch_sampler=self.upcoming,
            collate_fn=collate,
            num_workers=num_workers,
            pin_memory=pin_memory,
            persistent_workers=num_workers > 0,
            generator=torch.Generator(),  # of the seed that torch's loader draws for its workers
        )

    @property
    def _iterator(self) -> Any:
        """Where Lightning looks for workers to end with the training."""
        return self.loader._iterator

    @_iterator.setter
    def _iterator(self, iterator: Any) -> None:
        self.loader._iterator = iterator

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        """The batches.

        Raises:
            LoadError: an image cannot be loaded; the error names it.
        """
        for batch in self.loader:
            if isinstance(batch, Problem):
                raise LoadError(batch.message)
            yield batch


class ResumableLoader(BatchLoader):
    """A loader that moves from epoch to epoch, and can start in mid-epoch without loading what was used before.

    Its state is (epoch, number of batches given out in it); batches that workers have prepared but that were
    not given out do not count. After an epoch's last batch the state is the next epoch's beginning, and
    iterating again gives that epoch. An iterator reads the epoch when its first batch is asked for, so
    `set_epoch` and `load_state_dict` may come after `iter`.

    Its arguments are those of `BatchLoader`.
    """

    @property
    def sampler(self) -> ResumableLoader:
        """Where Lightning looks for `set_epoch`."""
        return self

    def __iter__(self) -> Iterator[Batch]:
        """The batches that the epoch has left; see `BatchLoader`."""
        here = self.upcoming
        for batch in super().__iter__():
            here.num_used += 1
            if here.num_used == len(self):
                here.epoch, here.num_used = here.epoch + 1, 0
            yield batch

    def set_epoch(self, epoch: int) -> None:
        """Go to the beginning of an epoch; nothing happens where it is the epoch that the loader is in."""
        if epoch != self.upcoming.epoch:
            self.upcoming.epoch, self.upcoming.num_used = epoch, 0

    def state_dict(self) -> dict[str, int]:
        """Where the loader is."""
        return {"epoch": self.upcoming.epoch, "num_used": self.upcoming.num_used, "num_batches": len(self)}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go to where another loader of the same data was.

        Raises:
            ValueError: in mid-epoch, when the epoch of this loader has another number of batches.
        """
        if state["num_used"] and state["num_batches"] != len(self):
            raise ValueError(
                f"cannot go on in mid-epoch: an epoch had {state['num_batches']} batches and has {len(self)} now; "
                "resume with the same data, batch size and number of processes, or start anew from the weights"
            )
        self.upcoming.epoch, self.upcoming.num_used = state["epoch"], state["num_used"]
