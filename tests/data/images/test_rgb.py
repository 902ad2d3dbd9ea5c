"""Pixels of any kind become RGB band by band, and are what they would be all at once."""

from __future__ import annotations

import numpy as np
import pytest
from image_cases import photo, scene
from PIL import Image

from captioner.data.images import rgb
from captioner.data.images.rgb import array_name, from_array, stored_bytes, to_rgb
from captioner.types import ImageError

MODES = (
    "1",
    "L",
    "LA",
    "P",
    "PA",
    "RGB",
    "RGBA",
    "RGBX",
    "RGBa",
    "La",
    "CMYK",
    "YCbCr",
    "HSV",
    "LAB",
    "I",
    "F",
    "I;16",
)


def image_of(mode: str) -> Image.Image:
    image = scene(61, 43)
    values = np.asarray(image.convert("L")).astype(np.float64) * 300 - 500
    if mode == "I;16":
        return Image.fromarray(values.clip(min=0).astype(np.uint16))
    if mode in ("I", "F"):
        return Image.fromarray(values.astype(np.int32 if mode == "I" else np.float32))
    before = {"PA": image.quantize(), "RGBa": image.convert("RGBA"), "La": image.convert("LA")}
    if mode in ("RGBA", "RGBa"):
        image.putalpha(image.convert("L"))
        return image.convert(mode)
    if mode == "LAB":
        return Image.merge("LAB", image.split())
    return before.get(mode, image).convert(mode)


@pytest.mark.parametrize("factor", [1, 2, 8])
@pytest.mark.parametrize("mode", MODES)
def test_bands_make_the_same_picture(mode, factor, monkeypatch):
    image = image_of(mode)
    whole = to_rgb(image, factor)
    assert whole.size == (-(-61 // factor), -(-43 // factor))
    monkeypatch.setattr(rgb, "BAND", 61 * 3)
    assert np.array_equal(to_rgb(image, factor), whole)
    assert image.mode == mode


def test_transparency_of_a_palette_is_kept_in_bands(monkeypatch):
    image = photo().quantize(8)
    image.info["transparency"] = image.getpixel((20, 20))
    whole = np.asarray(to_rgb(image))
    assert tuple(whole[20, 20]) == (255, 255, 255)
    monkeypatch.setattr(rgb, "BAND", 100)
    assert np.array_equal(to_rgb(image), whole)


def test_the_brightest_sample_of_all_bands_is_white(monkeypatch):
    values = np.arange(100, dtype=np.float32).reshape(10, 10) * 10_000
    monkeypatch.setattr(rgb, "BAND", 20)
    grey = np.asarray(to_rgb(Image.fromarray(values)))[:, :, 0]
    assert np.array_equal(grey, (values * (255 / values.max())).round())


def test_a_picture_is_new(monkeypatch):
    image = photo()
    assert to_rgb(image) is not image


def test_bytes_of_a_pixel():
    assert [stored_bytes(mode) for mode in ("L", "P", "I;16", "I;16B", "LA", "RGB", "CMYK", "F")] == [1, 1, 2, 2] + [
        4
    ] * 4


def test_arrays():
    array = np.full((2, 3), 0.5, dtype=np.float32)
    assert np.asarray(from_array(array)).tolist() == [[128] * 3] * 2
    assert array_name(array) == "array (2, 3) float32"
    with pytest.raises(ImageError, match="the shape must be"):
        from_array(np.zeros((2, 3, 5)))
