"""Cached features in place of image files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import Tensor

from captioner.data.features.cache import FeatureCache, stack_grids
from captioner.data.images import ImageTransform
from captioner.data.sources.base import as_item
from captioner.seeds import stable_seed
from captioner.types import CaptionedImage, ImageError, Memory, Opened, Source


class CachedFeatures(Source):
    """A cache as a source of training, of evaluation or of a user's photos, which are given as paths.

    Args:
        cache: holds the images' features.
        transform: fitted the images to the encoder that made them.
        views: how many views of an image to go through: one an epoch, in turn, beginning at one that
            is drawn from (seed, index), so that in `views` epochs each is seen once. 1 reads the plain image.
        seed: of where to begin.
    """

    def __init__(self, cache: FeatureCache, transform: ImageTransform, views: int = 1, seed: int = 0) -> None:
        self.cache = cache
        self.transform = transform
        self.views = views
        self.seed = seed

    def load(self, item: CaptionedImage, epoch: int, index: int) -> Tensor:
        """(h, w, D) float16 features; see `Source.load`."""
        view = (stable_seed("first view", self.seed, index) + epoch) % self.views
        return self.cache.load(item.path, view)

    def stack(self, loaded: Sequence[Tensor]) -> Memory:
        """The memory of the images."""
        return stack_grids(list(loaded))

    def open(self, given: object) -> Opened:
        """See `Source.open`: the plain photo's features."""
        item = as_item(given)
        width, height = self.transform.photo(item.path).size
        return Opened(self.cache.load(item.path, 0), (width, height), self.transform.grid_box(width, height))

    def check(self, items: Iterable[CaptionedImage]) -> list[ImageError]:
        """See `FeatureCache.check`."""
        return self.cache.check(items, self.views)
