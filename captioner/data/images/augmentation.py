"""Random changes to training photos, before they are fitted to the square."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from PIL import Image, ImageEnhance

from captioner.types.limits import require_shares


@dataclass(frozen=True)
class Augmentation:
    """Random changes to a training photo: a mild crop, a mirror image and a colour jitter, in this order.

    The cropped part is not resized here: the transform that follows fits it to the square. Note that a
    mirrored photo makes the words "left" and "right" in its captions (and any writing in it) wrong: set
    `flip` to 0 where these matter.

    Attributes:
        flip: probability of mirroring left to right.
        scale: smallest and largest share of the photo's area to keep.
        ratio: smallest and largest stretch of the kept part's shape (width / height) against the photo's own
            shape, drawn log-uniformly; where a part of this area and shape does not fit, the nearest shape
            that does.
        brightness: the factor is drawn from 1 - brightness to 1 + brightness; 0 leaves the brightness alone.
        contrast: the same for contrast.
        saturation: the same for saturation.
    """

    flip: float = 0.5
    scale: tuple[float, float] = (0.6, 1.0)
    ratio: tuple[float, float] = (0.8, 1.25)
    brightness: float = 0.2
    contrast: float = 0.2
    saturation: float = 0.2

    def __post_init__(self) -> None:
        require_shares(flip=self.flip, **self._strengths())
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"scale must be (low, high) with 0 < low <= high <= 1, not {self.scale}")
        if not 0 < self.ratio[0] <= self.ratio[1] < math.inf:
            raise ValueError(f"ratio must be (low, high) with 0 < low <= high, both finite, not {self.ratio}")

    def __call__(self, image: Image.Image, seed: int) -> Image.Image:
        """Change an upright RGB photo; the same seed makes the same changes, whatever was drawn before.

        Args:
            image: the photo, which is left as it is.
            seed: for a training run that resumes exactly, made from (seed, epoch, index).

        Returns:
            A new RGB image, no larger than the photo.
        """
        rng = random.Random(seed)  # all numbers are always drawn: one option does not disturb the others
        image = image.crop(self._crop_box(*image.size, rng))
        if rng.random() < self.flip:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        enhancers = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
        for enhancer, strength in zip(enhancers, self._strengths().values(), strict=True):
            factor = rng.uniform(1 - strength, 1 + strength)
            if strength > 0:
                image = enhancer(image).enhance(factor)
        return image

    @property
    def least_share(self) -> float:
        """The least part of a photo's width, or height, that a crop may keep."""
        area = self.scale[0]
        return math.sqrt(area * max(area, min(self.ratio[0], 1 / self.ratio[1])))

    def _strengths(self) -> dict[str, float]:
        return {"brightness": self.brightness, "contrast": self.contrast, "saturation": self.saturation}

    def _crop_box(self, width: int, height: int, rng: random.Random) -> tuple[int, int, int, int]:
        area = rng.uniform(*self.scale)
        stretch = math.exp(rng.uniform(math.log(self.ratio[0]), math.log(self.ratio[1])))
        stretch = min(max(stretch, area), 1 / area)  # beyond, one side would be longer than the photo's
        crop_width = min(width, max(1, round(width * math.sqrt(area * stretch))))
        crop_height = min(height, max(1, round(height * math.sqrt(area / stretch))))
        left = int(rng.random() * (width - crop_width + 1))
        top = int(rng.random() * (height - crop_height + 1))
        return (left, top, left + crop_width, top + crop_height)
