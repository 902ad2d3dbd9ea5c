"""Cached features as a source of batches."""

from __future__ import annotations

from torch import Tensor

from captioner.data.features.cache import FeatureCache, stack_grids
from captioner.seeds import stable_seed
from captioner.types import CaptionedImage, Memory


class CachedFeatures:
    """A cache as a source of training or evaluation, in place of image files.

    Args:
        cache: holds the images' features.
        views: how many views of an image to go through: one an epoch, in turn, beginning at one that
            is drawn from (seed, index), so that in `views` epochs each is seen once. 1 reads the plain image.
        seed: of where to begin.
    """

    def __init__(self, cache: FeatureCache, views: int = 1, seed: int = 0) -> None:
        self.cache = cache
        self.views = views
        self.seed = seed

    def load(self, item: CaptionedImage, epoch: int, index: int) -> Tensor:
        """(h, w, D) float16 features; see `Source.load`."""
        view = (stable_seed("first view", self.seed, index) + epoch) % self.views
        return self.cache.load(item.path, view)

    def stack(self, loaded: list[Tensor]) -> Memory:
        """The memory of the images."""
        return stack_grids(loaded)
