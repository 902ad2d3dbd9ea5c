"""From pixels of any kind to an RGB picture, by bands: beside the image itself there is little in memory."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from PIL import Image

from captioner.types import ImageError

BAND = 1 << 20
"""Pixels that are converted at a time."""


def to_rgb(image: Image.Image, factor: int = 1) -> Image.Image:
    """A new RGB picture of a loaded image, on white where it is transparent.

    Args:
        image: of any mode.
        factor: by how much the sides are divided, blocks of pixels being averaged.
    """
    white = _white_level(image)
    size = (-(-image.width // factor), -(-image.height // factor))
    result: Image.Image | None = None
    for top, band in _bands(image, factor):
        rgb = _converted(band, white)
        if factor > 1:
            rgb = rgb.reduce(factor)
        if rgb.size == size:
            return rgb
        result = result or Image.new("RGB", size)
        result.paste(rgb, (0, top // factor))
    assert result is not None  # an image has pixels
    return result


def stored_bytes(mode: str) -> int:
    """Bytes of a pixel in Pillow's memory."""
    return 1 if mode in ("1", "L", "P") else 2 if mode.startswith("I;16") else 4


def _bands(image: Image.Image, factor: int) -> Iterator[tuple[int, Image.Image]]:
    """An image from top to bottom, in bands whose heights are multiples of a factor; and where each begins."""
    rows = max(1, BAND // (image.width * factor)) * factor
    for top in range(0, image.height, rows):
        bottom = min(top + rows, image.height)
        yield top, image if bottom - top == image.height else image.crop((0, top, image.width, bottom))


def _converted(image: Image.Image, white: float) -> Image.Image:
    """A band, or all of an image, as a new RGB picture."""
    if _is_deep(image):
        image = Image.fromarray(_grey_8_bit(image, white))
    elif image.has_transparency_data:
        if image.mode == "La":  # Pillow has no direct way
            image = image.convert("LA")
        image = image.convert("RGBA")
        canvas = Image.new("RGB", image.size, "white")
        canvas.paste(image, mask=image.getchannel("A"))
        return canvas
    return image.convert("RGB")


def _is_deep(image: Image.Image) -> bool:
    """Whether its grey has more than 8 bits, which `convert("RGB")` clips to white."""
    return image.mode in ("I", "F") or image.mode.startswith("I;16")


def _white_level(image: Image.Image) -> float:
    """Which sample of a deep grey image is white.

    Modes I and F do not say it (but for PNG and PPM, where it is 65535): it is the least of 1 (floats only), 255 and
    65535 that no sample exceeds, else the brightest sample.
    """
    if image.mode not in ("I", "F"):
        return 65535.0
    if image.format in ("PNG", "PPM") and image.mode == "I":
        return 65535.0
    peak = max(float(_samples(band).max()) for _, band in _bands(image, 1))
    return next((white for white in (1.0, 255.0, 65535.0) if peak <= white and (white > 1 or image.mode == "F")), peak)


def _samples(image: Image.Image) -> np.ndarray:
    """(H, W) float64 of mode I or F, without what is no number or below black."""
    return np.nan_to_num(np.asarray(image).astype(np.float64), posinf=0, neginf=0).clip(min=0)


def _grey_8_bit(image: Image.Image, white: float) -> np.ndarray:
    """(H, W) uint8 of a deep grey image; a sample of 16 bits is divided by 256."""
    if image.mode.startswith("I;16"):
        return (np.asarray(image) >> 8).astype(np.uint8)
    values = _samples(image)
    values = np.floor(values / 256) if white == 65535 else values * (255 / white)
    return values.round().clip(max=255).astype(np.uint8)


def array_name(array: np.ndarray) -> str:
    """What an array is called in errors."""
    return f"array {array.shape} {array.dtype}"


def from_array(array: np.ndarray) -> Image.Image:
    """An array as an image, see `open_image`.

    Raises:
        ImageError: an array of another shape or type.
    """
    name = array_name(array)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim != 2 and not (array.ndim == 3 and array.shape[2] in (3, 4)):
        raise ImageError(name, "the shape must be (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)")
    if array.size == 0:
        raise ImageError(name, "has no pixels")
    if array.dtype == np.uint16:
        array = array >> 8
    elif array.dtype == np.bool_:
        array = array * np.uint8(255)
    elif np.issubdtype(array.dtype, np.floating):
        if not (array.min() >= 0 and array.max() <= 1):  # also false for NaN
            raise ImageError(name, "floats must lie between 0 and 1; give values from 0 to 255 as uint8")
        array = (array.astype(np.float64) * 255).round()
    elif array.dtype != np.uint8:
        raise ImageError(name, "the type must be uint8, uint16, bool or float from 0 to 1")
    return Image.fromarray(np.ascontiguousarray(array, dtype=np.uint8))
