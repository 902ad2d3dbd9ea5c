"""From a photo to the encoder's square, and where in the photo that square lies.

A model is trained with one `ImageTransform` and carries it for ever: the same photo must give the same pixels
when it is captioned, and `grid_box` leads from the encoder's grid back to the photo. `Augmentation` comes
before it, in training only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from PIL import Image

from captioner.data.images.opening import ImageSource, Photo, open_photo
from captioner.types import Opened, Transform
from captioner.types.limits import require_sizes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from captioner.types import CaptionedImage


PAD_VALUE = 128
"""The grey (of 0 to 255) around a padded photo: near 0 for encoders that normalise with a mean of 0.5."""

SPARE = 2
"""How many times the square's side is kept of a larger photo's, so that resampling has enough to average."""

LARGEST_SIZE = 8192
"""Side of a square in pixels: 0.2 GB for each photo."""

Fit = Literal["squash", "crop", "pad"]


@dataclass(frozen=True)
class ImageTransform(Transform):
    """Fits a photo of any shape to the encoder's square, with bicubic, antialiased resampling.

    Attributes:
        size: side S of the square in pixels.
        fit: "squash" stretches the whole photo to the square; "crop" takes the largest square from its
            middle; "pad" keeps the whole photo in its shape, centred on mid-grey (`PAD_VALUE`).
    """

    size: int = 288
    fit: Fit = "squash"

    def __post_init__(self) -> None:
        require_sizes(LARGEST_SIZE, size=self.size)
        if self.fit not in get_args(Fit):
            raise ValueError(f"fit must be one of {', '.join(get_args(Fit))}, not {self.fit!r}")

    def photo(self, source: ImageSource, share: float = 1.0) -> Photo:
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
            image: the photo, as `photo` or `open_image` gives it.
            box: what of the image the photo fills, see `Photo`; by default all.

        Returns:
            (3, S, S) uint8 pixels.
        """
        import torch

        if image.mode != "RGB":
            raise ValueError(f"the transform takes RGB images, not mode {image.mode!r}: use open_image")
        pixels = np.array(self.fitted(image, box))  # (S, S, 3)
        return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()  # (3, S, S)

    def load(self, item: CaptionedImage, epoch: int, index: int) -> Tensor:
        """(3, S, S) uint8 pixels; see `Source.load`."""
        photo = self.photo(item.path)
        return self(photo.pixels, photo.box)

    def stack(self, loaded: Sequence[Tensor]) -> Tensor:
        """(B, 3, S, S) uint8 pixels."""
        import torch

        return torch.stack(list(loaded))

    def open(self, given: ImageSource) -> Opened:
        """See `Source.open`: a photo as `open_image` takes it."""
        photo = self.photo(given)
        width, height = photo.size
        return Opened(self(photo.pixels, photo.box), photo.size, self.grid_box(width, height))

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
