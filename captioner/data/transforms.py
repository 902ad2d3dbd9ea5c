"""From a photo to the encoder's square, and where in the photo that square lies.

A model is trained with one `ImageTransform` and carries it for ever: the same photo must give the same pixels
when it is captioned, and `grid_box` leads from the encoder's grid back to the photo. `Augmentation` comes
before it, in training only.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from PIL import Image, ImageEnhance

from captioner.data.images import ImageSource, Photo, open_photo

if TYPE_CHECKING:  # torch is imported by the first call: finding and reading data does without it
    from torch import Tensor

PAD_VALUE = 128
"""The grey (of 0 to 255) around a padded photo: near 0 for encoders that normalise with a mean of 0.5."""

SPARE = 2
"""How many times the square's side is kept of a larger photo's, so that resampling has enough to average."""

Fit = Literal["squash", "crop", "pad"]


@dataclass(frozen=True)
class ImageTransform:
    """Fits a photo of any shape to the encoder's square, with bicubic, antialiased resampling.

    Attributes:
        size: side S of the square in pixels.
        fit: "squash" stretches the whole photo to the square; "crop" takes the largest square from its
            middle; "pad" keeps the whole photo in its shape, centred on mid-grey (`PAD_VALUE`).
    """

    size: int = 288
    fit: Fit = "squash"

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size must be at least 1 pixel, not {self.size}")
        if self.fit not in get_args(Fit):
            raise ValueError(f"fit must be one of {', '.join(get_args(Fit))}, not {self.fit!r}")

    def open(self, source: ImageSource, share: float = 1.0) -> Photo:
        """Open a photo with as many pixels as the square can show, which is much faster for large ones.

        Args:
            source: as for `open_image`.
            share: the least part of its sides that will be fitted, where it is to be cropped first.

        Raises:
            ImageError: the photo cannot be read.
        """
        return open_photo(source, math.ceil(SPARE * self.size / share))

    def __call__(self, image: Image.Image, box: tuple[float, float, float, float] | None = None) -> Tensor:
        """Fit an upright RGB photo.

        Args:
            image: the photo, as `open` or `open_image` gives it.
            box: what of the image the photo fills, see `Photo`; by default all.

        Returns:
            (3, S, S) uint8 pixels.
        """
        import torch

        if image.mode != "RGB":
            raise ValueError(f"the transform takes RGB images, not mode {image.mode!r}: use open_image")
        pixels = np.array(self.fitted(image, box))  # (S, S, 3)
        return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()  # (3, S, S)

    def fitted(self, image: Image.Image, box: tuple[float, float, float, float] | None = None) -> Image.Image:
        """The square itself, S x S, as the encoder will see it; see `__call__`."""
        square = (self.size, self.size)
        x0, y0, x1, y1 = box or (0.0, 0.0, float(image.width), float(image.height))
        if self.fit != "pad":
            left, top, right, bottom = self.grid_box(x1 - x0, y1 - y0)
            return image.resize(square, Image.Resampling.BICUBIC, box=(x0 + left, y0 + top, x0 + right, y0 + bottom))
        column, row, width, height = self._place(x1 - x0, y1 - y0)
        canvas = Image.new("RGB", square, (PAD_VALUE, PAD_VALUE, PAD_VALUE))
        canvas.paste(image.resize((width, height), Image.Resampling.BICUBIC, box=(x0, y0, x1, y1)), (column, row))
        return canvas

    def grid_box(self, width: float, height: float) -> tuple[float, float, float, float]:
        """The part of a photo that the square, and with it the encoder's grid, covers.

        Args:
            width: of the upright photo, in pixels.
            height: of the upright photo, in pixels.

        Returns:
            (x0, y0, x1, y1) in pixels of the upright photo, exact to fractions of a pixel. With "pad" it
            reaches past the photo's edges.
        """
        if self.fit == "squash":
            return (0.0, 0.0, float(width), float(height))
        if self.fit == "crop":
            side = min(width, height)
            x0, y0 = (width - side) / 2, (height - side) / 2
            return (x0, y0, x0 + side, y0 + side)
        left, top, placed_width, placed_height = self._place(width, height)
        x_step, y_step = width / placed_width, height / placed_height  # photo pixels per pixel of the square
        return (-left * x_step, -top * y_step, (self.size - left) * x_step, (self.size - top) * y_step)

    def _place(self, width: float, height: float) -> tuple[int, int, int, int]:
        """Where "pad" puts the photo in the square: (left, top, width, height) in its pixels."""
        scale = self.size / max(width, height)
        placed_width, placed_height = max(1, round(width * scale)), max(1, round(height * scale))
        left, top = (self.size - placed_width) // 2, (self.size - placed_height) // 2
        return (left, top, placed_width, placed_height)


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
        for name, value in {"flip": self.flip, **self._strengths()}.items():
            if not 0 <= value <= 1:
                raise ValueError(f"{name} must lie between 0 and 1, not {value}")
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"scale must be (low, high) with 0 < low <= high <= 1, not {self.scale}")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError(f"ratio must be (low, high) with 0 < low <= high, not {self.ratio}")

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
