"""A data set made ready for training: the `data` section of a config."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import pytorch_lightning as pl
import torch
from torch import nn

from captioner.data.batches import (
    BatchLoader,
    BucketedBatches,
    CaptionDataset,
    Collate,
    EncodedCaptions,
    ImageFiles,
    OrderedBatches,
    ResumableLoader,
    Source,
    move,
)
from captioner.data.feature_cache import CachedFeatures, CacheError, FeatureCache, build_cache
from captioner.data.images import ImageError
from captioner.data.readers import Reader
from captioner.data.regions import RegionFile
from captioner.data.shards import Shard, ShardImage
from captioner.data.transforms import Augmentation, ImageTransform
from captioner.tokenizer import Tokenizer, TokenizerBuilder, WordLevel
from captioner.types import Batch, CaptionedImage


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


class CaptionData(SequenceData):
    """Training and validation batches of a data set, from image files, a feature cache or a file of regions.

    Batches are image-major: an image comes once, with several of its captions. Each process gets its own
    share, so the trainer need not (and cannot) add a sampler.

    Args:
        reader: reads the data set.
        transform: fits images to the encoder.
        vocabulary: learns the vocabulary from the training captions; by default whole words seen at least 5 times.
        augmentation: random changes to training images; with a cache it takes `cache_views` > 1, with regions there
            is none.
        cache_dir: a folder for the frozen encoder's features. What it lacks is computed before training,
            after that the encoder is not run again. None reads image files.
        cache_views: how often the cache holds each training image: once plain, the others augmented.
        regions: a file, or a folder of files, of region features to read in place of images and cache, see
            `data.regions`; features that were made with the model's own detector, or any for `PrecomputedRegions`.
        batch_size: images of a training batch, per process.
        eval_batch_size: images of a validation batch, per process.
        captions_per_image: where an image has more captions, training draws so many anew every epoch.
        max_words: captions are cut after so many words; they have no end word then.
        num_workers: processes that load images, for training and for validation.
        bucket_window: batches among which images are sorted by caption length; see `BucketedBatches`.
        train_split: the reader's split to train on.
        val_split: the reader's split to validate on.
        seed: of shuffling, augmentation and the choice of captions.
        open_shards: where images lie in shards: from how many of them images are mixed; see `BucketedBatches`.

    Raises:
        ValueError: regions, cache, views and augmentation that do not go together.
    """

    def __init__(
        self,
        reader: Reader,
        transform: ImageTransform,
        vocabulary: TokenizerBuilder | None = None,
        augmentation: Augmentation | None = None,
        cache_dir: str | None = None,
        cache_views: int = 1,
        regions: str | None = None,
        batch_size: int = 32,
        eval_batch_size: int = 32,
        captions_per_image: int = 5,
        max_words: int = 30,
        num_workers: int = 2,
        bucket_window: int = 32,
        train_split: str = "train",
        val_split: str = "dev",
        seed: int = 0,
        open_shards: int = 8,
    ) -> None:
        super().__init__(
            vocabulary or WordLevel(),
            batch_size,
            eval_batch_size,
            captions_per_image,
            max_words,
            num_workers,
            bucket_window,
            train_split,
            val_split,
            seed,
            open_shards,
        )
        self.reader = reader
        self.transform = transform
        self.augmentation = augmentation
        self.cache_dir = cache_dir
        self.cache_views = cache_views
        self.regions = regions
        if cache_dir is not None and (augmentation is not None) != (cache_views > 1):
            raise ValueError(
                f"with a cache, augmentation needs cache_views of at least 2 (4, say), and more than one view needs an "
                f"augmentation; here augmentation is {augmentation} and cache_views {cache_views}"
            )
        if regions is not None and (cache_dir is not None or augmentation is not None or cache_views != 1):
            raise ValueError(
                f"regions {regions!r} are read in place of images: there is nothing to cache or to augment; leave out "
                "regions, or cache_dir, cache_views and augmentation"
            )
        self._cache: FeatureCache | None = None
        self._regions: RegionFile | None = None

    def read(self, split: str) -> list[CaptionedImage]:
        """See `SequenceData.read`; with a file of regions the photos need not be there."""
        return self.reader.read(split, require_images=self.regions is None)

    def shards(self, items: list[CaptionedImage]) -> list[int] | None:
        """See `SequenceData.shards`; features of a cache or a file do not lie in the shards."""
        if self._cache is not None or self._regions is not None:
            return None
        numbers: dict[Shard | None, int] = {}
        paths = (item.path for item in items)
        shards = (path.shard if isinstance(path, ShardImage) else None for path in paths)
        return [numbers.setdefault(shard, len(numbers)) for shard in shards]

    # -------------------------------------------------------------------------------- Lightning's hooks

    def prepare_data(self) -> None:
        """Compute what the cache lacks; in one process of each machine, and where they share the folder one by one."""
        if self.cache_dir is None:
            return
        try:
            self._cache = self._opened_cache()
        except CacheError:  # no cache, or not all of it: building says what else may be wrong
            device = self.trainer.strategy.root_device if self.trainer is not None else torch.device("cpu")
            self.build_cache(self._encoder(), device, wait=self.trainer is not None and self.trainer.num_nodes > 1)

    def setup(self, stage: str) -> None:
        """Open the cache or the regions, and see that all images are in."""
        if self.cache_dir is not None and self._cache is None:
            self._cache = self._opened_cache()
        if self.regions is not None and self._regions is None:
            self._regions = self._opened_regions(self.regions)

    def source(self, training: bool) -> Source:
        """See `SequenceData.source`; only for training images are augmented."""
        if self._regions is not None:
            return self._regions
        if self._cache is not None:
            return CachedFeatures(self._cache, self.cache_views if training else 1, self.seed)
        return ImageFiles(self.transform, self.augmentation if training else None, self.seed)

    # -------------------------------------------------------------------------------- the cache, the regions

    def build_cache(self, encoder: nn.Module, device: torch.device | str = "cpu", wait: bool = False) -> None:
        """Compute what the cache lacks of the training and validation images.

        Args:
            encoder: a frozen encoder.
            device: where to run it.
            wait: whether to wait where another process is building it.

        Raises:
            CacheError: see `feature_cache.build_cache`; or some images cannot be read.
        """
        if self.cache_dir is None:
            raise ValueError("there is no cache_dir to build a cache in")
        problems: list[ImageError] = []
        for split, views in self._views():
            problems += build_cache(
                self.cache_dir,
                self.items(split),
                encoder,
                self.transform,
                self.augmentation,
                views,
                num_workers=self.num_workers,
                device=device,
                wait=wait,
            )
        _require_none(problems)

    def _opened_regions(self, path: str) -> RegionFile:
        regions = RegionFile(path)
        if self.trainer is not None:
            regions.require_for(self._encoder(), self.transform)
        _require_none([problem for split, _ in self._views() for problem in regions.check(self.items(split))])
        return regions

    def _opened_cache(self) -> FeatureCache:
        assert self.cache_dir is not None
        cache = FeatureCache.open(self.cache_dir, self._encoder(), self.transform, self.augmentation)
        _require_none([problem for split, views in self._views() for problem in cache.check(self.items(split), views)])
        return cache

    def _views(self) -> list[tuple[str, int]]:
        return [(self.train_split, self.cache_views), (self.val_split, 1)]

    def _encoder(self) -> nn.Module:
        if self.trainer is None:
            raise ValueError("a cache needs the encoder that it is made with: give the data to a trainer first")
        return self.trainer.lightning_module.get_submodule("model.encoder")


def _require_none(problems: Sequence[ImageError]) -> None:
    if problems:
        shown = "\n".join(map(str, problems[:10]))
        more = f"\nand {len(problems) - 10:,} more" if len(problems) > 10 else ""
        raise CacheError(f"{len(problems):,} images are not there or cannot be read:\n{shown}{more}")
