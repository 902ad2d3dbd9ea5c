"""Image files as a source of batches."""

from __future__ import annotations

import torch
from torch import Tensor

from captioner.data.images import Augmentation, ImageTransform
from captioner.seeds import stable_seed
from captioner.types import CaptionedImage


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
