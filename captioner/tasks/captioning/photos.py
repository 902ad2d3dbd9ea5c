"""Photos with captions made ready for training: the `data` section of a config."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from captioner.data.features.build_cache import build_cache
from captioner.data.features.cache import FeatureCache
from captioner.data.features.identity import CacheError
from captioner.data.features.regions import RegionFile
from captioner.data.images import Augmentation, ImageTransform
from captioner.data.readers import Reader
from captioner.data.shards import Shard, ShardImage
from captioner.data.sources.augmented import AugmentedImages
from captioner.data.sources.cached import CachedFeatures
from captioner.data.sources.regions import StoredRegions
from captioner.tokenizer import TokenizerBuilder, WordLevel
from captioner.training import SequenceData
from captioner.types import CaptionedImage, ImageError, Source
from captioner.types.limits import require_sizes


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
            `RegionFile`; features that were made with the model's own detector, or any for `PrecomputedRegions`.
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
        require_sizes(cache_views=cache_views)
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
        """See `SequenceData.setup`; open the cache or the regions, and see that all images are in."""
        super().setup(stage)
        if self.cache_dir is not None and self._cache is None:
            self._cache = self._opened_cache()
        if self.regions is not None and self._regions is None:
            self._regions = self._opened_regions(self.regions)

    def source(self, training: bool) -> Source:
        """See `SequenceData.source`; only for training images are augmented."""
        if self._regions is not None:
            return StoredRegions(self._regions, self.transform)
        if self._cache is not None:
            return CachedFeatures(self._cache, self.transform, self.cache_views if training else 1, self.seed)
        if self.augmentation is not None and training:
            return AugmentedImages(self.transform, self.augmentation, self.seed)
        return self.transform

    # -------------------------------------------------------------------------------- the cache, the regions

    def build_cache(self, encoder: nn.Module, device: torch.device | str = "cpu", wait: bool = False) -> None:
        """Compute what the cache lacks of the training and validation images.

        Args:
            encoder: a frozen encoder.
            device: where to run it.
            wait: whether to wait where another process is building it.

        Raises:
            CacheError: see `features.build_cache`; or some images cannot be read.
        """
        if self.cache_dir is None:
            raise ValueError("there is no cache_dir to build a cache in")
        problems: list[ImageError] = []
        wanted = [(self.items(split), views) for split, views in self._views()]  # all are read before any is encoded
        for items, views in wanted:
            problems += build_cache(
                self.cache_dir,
                items,
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
