"""What data with captions share, of photos or of sentences."""

from __future__ import annotations

from abc import ABC, abstractmethod

import pytorch_lightning as pl
import torch

from captioner.data.batches import (
    BatchLoader,
    BucketedBatches,
    CaptionDataset,
    Collate,
    EncodedCaptions,
    OrderedBatches,
    ResumableLoader,
    move,
)
from captioner.tokenizer import Tokenizer, TokenizerBuilder
from captioner.types import Batch, Source


class SequenceData(pl.LightningDataModule, ABC):
    """What all data with captions share: items of each split, the vocabulary, and loaders dealt out to processes.

    Subclasses give `read` and `source`. Each process gets its own share, so the trainer need not (and cannot) add a
    sampler. The arguments are those of `CaptionData`.
    """

    def __init__(
        self,
        vocabulary: TokenizerBuilder,
        batch_size: int,
        eval_batch_size: int,
        captions_per_image: int | None,
        max_words: int,
        num_workers: int,
        bucket_window: int,
        train_split: str,
        val_split: str,
        seed: int,
        open_shards: int = 8,
    ) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.captions_per_image = captions_per_image
        self.max_words = max_words
        self.num_workers = num_workers
        self.bucket_window = bucket_window
        self.train_split = train_split
        self.val_split = val_split
        self.seed = seed
        self.open_shards = open_shards
        self._items: dict[str, list] = {}
        self._tokenizer: Tokenizer | None = None

    @abstractmethod
    def read(self, split: str) -> list:
        """The items of one of the reader's splits, see `captioner.types.Item`."""

    @abstractmethod
    def source(self, training: bool) -> Source:
        """What loads an item for the encoder, in training or to be evaluated."""

    def shards(self, items: list) -> list[int] | None:
        """The number of each item's shard, see `BucketedBatches`; None where all are alike to reach."""
        return None

    def items(self, split: str) -> list:
        """The items of a split, read once; in training those that have captions."""
        if split not in self._items:
            items = self.read(split)
            if split == self.train_split:
                items = [item for item in items if item.captions]
                if not items:
                    raise ValueError(f"nothing in the split {split!r} has a caption to train on")
            self._items[split] = items
        return self._items[split]

    @property
    def tokenizer(self) -> Tokenizer:
        """The vocabulary of the training captions, learnt once."""
        if self._tokenizer is None:
            self._tokenizer = self.vocabulary.fit(
                text for item in self.items(self.train_split) for text in item.captions
            )
        return self._tokenizer

    # -------------------------------------------------------------------------------- Lightning's hooks

    def train_dataloader(self) -> ResumableLoader:
        """This process's share of the training batches."""
        items = self.items(self.train_split)
        captions = EncodedCaptions(items, self.tokenizer, self.max_words)
        source = self.source(training=True)
        return ResumableLoader(
            CaptionDataset(items, captions, source, self.captions_per_image, self.seed),
            BucketedBatches(
                captions.longest(),
                self.batch_size,
                self.seed,
                self.bucket_window,
                self._rank(),
                self._world_size(),
                self.shards(items),
                self.open_shards,
            ),
            Collate(source),
            self.num_workers,
            pin_memory=torch.cuda.is_available(),
        )

    def val_dataloader(self) -> BatchLoader:
        """This process's share of the validation items, each once, with all their captions."""
        return self.eval_loader(self.items(self.val_split))

    def eval_loader(self, items: list) -> BatchLoader:
        """Batches of any items, each once: not augmented, with all their captions.

        Args:
            items: where a cache or a file of regions is open they must be in it.
        """
        source = self.source(training=False)
        return BatchLoader(
            CaptionDataset(items, EncodedCaptions(items, self.tokenizer, self.max_words), source),
            OrderedBatches(len(items), self.eval_batch_size, self._rank(), self._world_size()),
            Collate(source),
            self.num_workers,
            pin_memory=torch.cuda.is_available(),
        )

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """See `batches.move`."""
        return move(batch, device)

    def _rank(self) -> int:
        return 0 if self.trainer is None else self.trainer.global_rank

    def _world_size(self) -> int:
        return 1 if self.trainer is None else self.trainer.world_size
