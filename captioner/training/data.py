"""What data with captions share, of photos or of sentences."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from hashlib import sha256
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities.rank_zero import rank_zero_warn

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
from captioner.types import Batch, Source, TextPair
from captioner.types.limits import require_sizes


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
        require_sizes(
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            max_words=max_words,
            bucket_window=bucket_window,
            open_shards=open_shards,
        )
        require_sizes(least=0, num_workers=num_workers)
        if captions_per_image is not None:
            require_sizes(captions_per_image=captions_per_image)
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
        self._digests: dict[str, str] = {}
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
        """The items of a split, read once; to train and to validate on, those that have captions."""
        if split not in self._items:
            items = self.read(split)
            if split in (self.train_split, self.val_split):
                items = _captioned(items, [bool(item.captions) for item in items], split)
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

    def encoded(self, split: str) -> tuple[list, EncodedCaptions]:
        """The items of a split whose captions hold words, and these captions.

        Raises:
            ValueError: none of them holds a word.
        """
        items = self.items(split)
        captions = EncodedCaptions(items, self.tokenizer, self.max_words)
        with_words = (captions.longest() > 0).tolist()
        if all(with_words):
            return items, captions
        items = _captioned(items, with_words, split)
        return items, EncodedCaptions(items, self.tokenizer, self.max_words)

    # -------------------------------------------------------------------------------- Lightning's hooks

    def setup(self, stage: str) -> None:
        """See that items can be loaded and that there are some to validate on, before the first epoch.

        Raises:
            ValueError: there is not, or an item is already known to be unreadable.
        """
        self.encoded(self.val_split)
        for split in (self.train_split, self.val_split):
            if problems := self.source(training=split == self.train_split).check(self.items(split)):
                more = f" (and {len(problems) - 1:,} more of the split {split!r})" if len(problems) > 1 else ""
                raise ValueError(f"{problems[0]}{more}")

    def state_dict(self) -> dict[str, Any]:
        """What the data were, for a run that resumes."""
        return {"data": {use: self._digest(split) for use, split in self._uses().items()}, "cut": self._cut()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See that the data are those of the run that is resumed.

        Raises:
            ValueError: they are not.
        """
        assert self.trainer is not None
        if self.trainer.state.fn != TrainerFn.FITTING:
            return
        advice = "resume with the same, or start anew in another --run_dir (from these weights by --model.init_from)"
        for use, split in self._uses().items():
            if state["data"].get(use) != self._digest(split):
                raise ValueError(
                    f"the run began with other data: in the split {split!r}, images, sentences or captions were added, "
                    f"removed, changed or put in another order since; {advice}"
                )
        for name, value in self._cut().items():
            if state["cut"].get(name) != value:
                raise ValueError(
                    f"the run began with data.{name} {state['cut'].get(name)}, and here it is {value}; {advice}"
                )

    def _uses(self) -> dict[str, str]:
        """What the splits are for."""
        return {"training": self.train_split, "validation": self.val_split}

    def _cut(self) -> dict[str, int | None]:
        """How much of each item is trained on."""
        return {"captions_per_image": self.captions_per_image, "max_words": self.max_words}

    def _digest(self, split: str) -> str:
        """Of the keys, sentences and captions of a split."""
        if split not in self._digests:
            content = sha256()
            for item in self.items(split):
                read = [item.text] if isinstance(item, TextPair) else []
                content.update(json.dumps([item.key, read, item.captions]).encode())
            self._digests[split] = content.hexdigest()
        return self._digests[split]

    def train_dataloader(self) -> ResumableLoader:
        """This process's share of the training batches."""
        items, captions = self.encoded(self.train_split)
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
        return self.eval_loader(self.encoded(self.val_split)[0])

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


def _captioned(items: list, has_words: Sequence[bool], split: str) -> list:
    """The items that can be trained or validated on; a line says how many cannot.

    Raises:
        ValueError: none can.
    """
    kept = [item for item, good in zip(items, has_words, strict=True) if good]
    if not kept:
        raise ValueError(f"nothing in the split {split!r} has a caption with a word in it (of {len(items):,} items)")
    if num_bare := len(items) - len(kept):
        first = items[list(has_words).index(False)].key
        rank_zero_warn(
            f"{num_bare:,} of {len(items):,} items of the split {split!r} have no caption with a word in it, and are "
            f"left out: {first!r}{', ...' if num_bare > 1 else ''}"
        )
    return kept
