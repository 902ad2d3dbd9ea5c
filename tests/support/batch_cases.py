"""Items that are numbers, and a loader of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from captioner.types import CaptionedImage, ImageError

WORDS = list("abcdefgh")


class Numbers:
    """A source that gives (epoch, index) as pixels; image 13 is broken where `broken`."""

    def __init__(self, broken=False):
        self.broken = broken

    def load(self, item, epoch, index):
        if self.broken and index == 13:
            raise ImageError(str(item.path), "is damaged")
        return torch.tensor([epoch, index])

    def stack(self, loaded):
        return torch.stack(loaded)


def images(num_images, num_captions=3):
    rng = np.random.default_rng(0)
    captions = [
        [" ".join(rng.choice(WORDS, rng.integers(1, 15))) for _ in range(num_captions)] for _ in range(num_images)
    ]
    return [CaptionedImage(i, Path(f"{i}.png"), tuple(texts)) for i, texts in enumerate(captions)]
