"""Image files with augmentation, for training."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from captioner.data.images import Augmentation, ImageSource, ImageTransform
from captioner.seeds import stable_seed
from captioner.types import CaptionedImage, Opened, Source


class AugmentedImages(Source):
    """Image files as a source of training: opened, changed at random, fitted to the encoder's square.

    Args:
        transform: fits them.
        augmentation: random changes before it, drawn from (seed, epoch, index).
        seed: of the augmentation.
    """

    def __init__(self, transform: ImageTransform, augmentation: Augmentation, seed: int = 0) -> None:
        self.transform = transform
        self.augmentation = augmentation
        self.seed = seed

    def load(self, item: CaptionedImage, epoch: int, index: int) -> Tensor:
        """(3, S, S) uint8 pixels; see `Source.load`."""
        photo = self.transform.photo(item.path, self.augmentation.least_share)
        seed = stable_seed("augmentation", self.seed, epoch, index)
        return self.transform(self.augmentation(photo.pixels, seed))

    def stack(self, loaded: Sequence[Tensor]) -> Tensor:
        """See `ImageTransform.stack`."""
        return self.transform.stack(loaded)

    def open(self, given: ImageSource) -> Opened:
        """See `ImageTransform.open`: a user's photo stays as it is."""
        return self.transform.open(given)
