"""Pixels of any kind become RGB band by band, and are what they would be all at once."""

from __future__ import annotations

import numpy as np
import pytest
from image_cases import SIZE, difference, encoded, grey, photo, scene, wide_png
from PIL import Image, ImageCms

from captioner.data.images import open_image, rgb
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


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr", "HSV"])
def test_modes_in_memory(mode):
    before = {"P": photo().quantize(), "PA": photo().quantize(), "RGBa": photo().convert("RGBA")}
    image = before.get(mode, photo()).convert(mode)
    expected = image.convert("L") if mode in ("1", "L", "LA") else photo()
    assert difference(open_image(image), expected) < 3


def test_la_with_premultiplied_alpha():
    opened = open_image(grey().convert("LA").convert("La"))
    assert difference(opened, grey()) == 0


@pytest.mark.parametrize(("mode", "format"), [("CMYK", "JPEG"), ("CMYK", "TIFF"), ("YCbCr", "TIFF"), ("L", "JPEG")])
def test_modes_in_files(mode, format):
    expected = grey() if mode == "L" else photo()
    assert difference(open_image(encoded(photo().convert(mode), format)), expected) < 4


def test_lab():
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    transform = ImageCms.buildTransform(srgb, lab, "RGB", "LAB")
    image = ImageCms.applyTransform(photo(), transform)
    assert image is not None
    assert image.mode == "LAB"
    assert difference(open_image(encoded(image, "TIFF")), photo()) < 4


def test_transparency_is_laid_on_white():
    alpha = Image.linear_gradient("L").resize(SIZE)
    image = photo()
    image.putalpha(alpha)
    expected = Image.composite(photo(), Image.new("RGB", SIZE, "white"), alpha)
    assert difference(open_image(encoded(image, "PNG")), expected) < 1
    assert difference(open_image(encoded(image, "WEBP", lossless=True, exact=True)), expected) < 1


@pytest.mark.parametrize("format", ["PNG", "GIF"])
def test_palette_with_transparency(format):
    image = Image.new("P", SIZE, 0)
    image.putpalette([200, 0, 0, 0, 0, 200])
    image.paste(1, (10, 10, 20, 20))
    opened = open_image(encoded(image, format, transparency=0))
    assert opened.getpixel((0, 0)) == (255, 255, 255)
    assert opened.getpixel((15, 15)) == (0, 0, 200)
    assert open_image(encoded(image, format)).getpixel((0, 0)) == (200, 0, 0)


def test_palette_with_transparency_per_entry():
    image = Image.new("P", SIZE, 0)
    image.putpalette([200, 0, 0])
    assert open_image(encoded(image, "PNG", transparency=bytes([0]))).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize(("mode", "colour"), [("L", 200), ("RGB", (200, 10, 10))])
def test_one_colour_as_transparent(mode, colour):
    image = Image.new(mode, SIZE, colour)
    assert open_image(encoded(image, "PNG", transparency=colour)).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("factor", [256, 257])  # both ways in which 8 bits become 16
def test_16_bit_grey_equals_its_8_bit_original(factor, tmp_path):
    deep = np.asarray(grey()).astype(np.uint16) * factor
    sources = {
        "array": deep,
        "PNG": wide_png(deep),
        "TIFF": encoded(Image.fromarray(deep), "TIFF"),
        "PGM": b"P5\n%d %d\n65535\n" % SIZE + deep.astype(">u2").tobytes(),
        "I": Image.fromarray(deep.astype(np.int32)),
        "I;16": Image.fromarray(deep),
        "I;16B": Image.frombytes("I;16B", SIZE, deep.astype(">u2").tobytes()),
        "F": Image.fromarray(deep.astype(np.float32)),
    }
    for kind, source in sources.items():
        assert difference(open_image(source), grey()) == 0, kind


def test_16_bit_colour_equals_its_8_bit_original():
    deep = np.asarray(photo()).astype(np.uint16) * 257
    assert difference(open_image(wide_png(deep)), photo()) == 0
    assert difference(open_image(deep), photo()) == 0


def test_a_dark_16_bit_photo_stays_dark():
    assert np.asarray(open_image(wide_png(np.full((4, 4), 255, np.uint16)))).max() == 0


@pytest.mark.parametrize("white", [1, 255, 65535 / 257 * 256])
def test_floats(white):
    values = np.asarray(grey()).astype(np.float32) / 255 * white
    assert difference(open_image(Image.fromarray(values)), grey()) <= 1
    assert difference(open_image(encoded(Image.fromarray(values), "TIFF")), grey()) <= 1


def test_floats_that_are_no_numbers_are_black():
    values = np.array([[np.nan, np.inf, -np.inf, 1.0]], dtype=np.float32)
    assert np.asarray(open_image(Image.fromarray(values)))[0, :, 0].tolist() == [0, 0, 0, 255]


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.full((2, 3), 7, np.uint8), 7),
        (np.full((2, 3, 1), 7, np.uint8), 7),
        (np.full((2, 3), 7 * 256 + 3, np.uint16), 7),
        (np.ones((2, 3), bool), 255),
        (np.full((2, 3, 3), 0.5, np.float64), 128),
        (np.full((2, 3, 3), 1.0, np.float16), 255),
        (np.zeros((2, 3, 4), np.uint8), 255),  # wholly transparent
        (np.full((4, 6), 7, np.uint8)[::2, ::-2], 7),  # strided
    ],
)
def test_arrays(array, expected):
    pixels = np.asarray(open_image(array))
    assert pixels.shape == (2, 3, 3)
    assert (pixels == expected).all()


@pytest.mark.parametrize(
    "array",
    [
        np.zeros(4, np.uint8),
        np.zeros((4, 4, 2), np.uint8),
        np.zeros((1, 4, 4, 3), np.uint8),
        np.zeros((3, 4, 5), np.uint8),
        np.zeros((0, 4), np.uint8),
        np.zeros((4, 4), np.int64),
        np.zeros((4, 4), complex),
        np.full((4, 4), 1.01),
        np.full((4, 4), -0.01),
        np.full((4, 4), np.nan),
    ],
)
def test_arrays_that_are_no_images(array):
    with pytest.raises(ImageError) as caught:
        open_image(array)
    assert str(array.shape) in caught.value.name


def test_names_of_arrays():
    array = np.full((2, 3), 0.5, dtype=np.float32)
    assert np.asarray(from_array(array)).tolist() == [[128] * 3] * 2
    assert array_name(array) == "array (2, 3) float32"
    with pytest.raises(ImageError, match="the shape must be"):
        from_array(np.zeros((2, 3, 5)))
