"""A square covers exactly what `grid_box` says; augmentation hangs on its seed alone."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from shape_cases import gradient

from captioner.data.images import PAD_VALUE, ImageTransform, open_image

FITS = ("squash", "crop", "pad")
SHAPES = [(1, 1), (2, 2), (3000, 60), (60, 3000), (640, 427), (427, 640), (333, 333), (5000, 1), (7, 4)]


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("shape", SHAPES)
def test_any_shape_gives_the_square(fit, shape):
    pixels = ImageTransform(32, fit)(Image.new("RGB", shape, (10, 20, 30)))
    assert pixels.shape == (3, 32, 32)
    assert pixels.dtype == torch.uint8
    assert pixels.is_contiguous()
    assert [10, 20, 30] in pixels.flatten(1).T.tolist()
    assert fit == "pad" or (pixels == torch.tensor([10, 20, 30])[:, None, None]).all()


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("shape", SHAPES)
def test_grid_box_has_its_shape(fit, shape):
    width, height = shape
    x0, y0, x1, y1 = ImageTransform(32, fit).grid_box(width, height)
    if fit == "squash":
        assert (x0, y0, x1, y1) == (0, 0, width, height)
    elif fit == "crop":
        assert x0 >= 0
        assert y0 >= 0
        assert x1 <= width
        assert y1 <= height
        assert x1 - x0 == y1 - y0 == min(width, height)
        assert (x0 + x1, y0 + y1) == (width, height)
    else:
        assert x0 <= 0
        assert y0 <= 0
        assert x1 >= width
        assert y1 >= height
        assert max(width, height) in (x1 - x0, y1 - y0)


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("shape", [(640, 427), (427, 640), (600, 201), (201, 600), (901, 300), (288, 288), (97, 100)])
@pytest.mark.parametrize("size", [64, 75])
def test_grid_box_agrees_with_the_pixels(fit, shape, size):
    """On a gradient, each pixel of the square shows where in the photo it comes from."""
    transform = ImageTransform(size, fit)
    pixels = transform(gradient(*shape)).double()
    x0, y0, x1, y1 = transform.grid_box(*shape)
    centres = (torch.arange(size) + 0.5) / size
    x, y = x0 + centres * (x1 - x0), y0 + centres * (y1 - y0)  # in pixels of the photo
    inside = ((x > 0) & (x < shape[0]))[None, :] & ((y > 0) & (y < shape[1]))[:, None]  # (S, S)
    inner = inside.clone()
    inner[:3], inner[-3:], inner[:, :3], inner[:, -3:] = (
        False,
        False,
        False,
        False,
    )  # resampling bends the edge
    inner &= torch.nn.functional.avg_pool2d(inside[None].double(), 7, 1, 3)[0] == 1
    red, green = (255 * x / shape[0]).expand(size, size), (255 * y / shape[1])[:, None].expand(size, size)
    assert inner.sum() > size
    assert (pixels[0] - red)[inner].abs().max() < 1.1  # of 255: a fraction of a pixel, rounding included
    assert (pixels[1] - green)[inner].abs().max() < 1.1
    assert (pixels[:, ~inside] == PAD_VALUE).all()
    assert inside.all() or fit == "pad"


@pytest.mark.parametrize("fit", FITS)
def test_one_bright_spot_lands_where_the_box_says(fit):
    photo = Image.new("RGB", (300, 100))
    photo.paste((255, 255, 255), (140, 20, 150, 30))
    transform = ImageTransform(90, fit)
    x0, y0, x1, y1 = transform.grid_box(300, 100)
    light = transform(photo)[0].double()
    light[light == PAD_VALUE] = 0
    rows, columns = torch.meshgrid(torch.arange(90) + 0.5, torch.arange(90) + 0.5, indexing="ij")
    x = x0 + (light * columns).sum() / light.sum() / 90 * (x1 - x0)
    y = y0 + (light * rows).sum() / light.sum() / 90 * (y1 - y0)
    assert x == pytest.approx(145, abs=0.5)
    assert y == pytest.approx(25, abs=0.5)


def test_a_very_long_photo_is_padded_without_a_huge_canvas():
    photo = Image.new("RGB", (100_000, 30), "white")
    pixels = ImageTransform(32, "pad")(photo)
    assert (pixels == 255).all(dim=0).sum() == 32  # one row
    _, y0, _, y1 = ImageTransform(32, "pad").grid_box(100_000, 30)
    assert (y1 - y0) / 32 == 30  # which shows the 30 rows of the photo


def test_downscaling_is_antialiased():
    stripes = Image.fromarray(np.tile(np.array([[0, 255]], np.uint8), (64, 32))).convert("RGB")
    pixels = ImageTransform(16, "squash")(stripes).double()
    assert (pixels - 127.5).abs().max() < 12  # without it, 127.5


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("shape", [(803, 567), (567, 803), (1031, 260)])
def test_a_large_photo_is_opened_smaller_and_looks_the_same(fit, shape, tmp_path):
    transform, path = ImageTransform(64, fit), tmp_path / "a.jpg"
    small = np.random.default_rng(0).integers(0, 256, (18, 24, 3), dtype=np.uint8)
    Image.fromarray(small).resize(shape, Image.Resampling.BICUBIC).save(path)
    photo, whole = transform.photo(path), open_image(path)
    assert photo.size == whole.size == shape
    assert min(photo.pixels.size) >= 2 * 64
    assert photo.pixels.width < shape[0]
    away = (transform(photo.pixels, photo.box).double() - transform(whole).double()).abs()
    assert away.mean() < 0.5  # of 255
    assert away.max() <= 6


def test_photos_below_four_times_the_square_are_not_changed(tmp_path):
    transform, path = ImageTransform(64), tmp_path / "a.jpg"
    gradient(500, 255).save(path)
    photo = transform.photo(path)
    assert torch.equal(transform(photo.pixels, photo.box), transform(open_image(path)))


def test_only_rgb_is_taken():
    with pytest.raises(ValueError, match="open_image"):
        ImageTransform(8)(Image.new("L", (4, 4)))


@pytest.mark.parametrize(("arguments", "word"), [({"size": 0}, "size"), ({"fit": "stretch"}, "squash, crop, pad")])
def test_transform_arguments_are_checked(arguments, word):
    with pytest.raises(ValueError, match=word):
        ImageTransform(**arguments)


def test_transform_is_a_value():
    """Its repr is part of cache keys: a change of it makes every cache stale."""
    transform = ImageTransform(size=224, fit="pad")
    assert repr(transform) == "ImageTransform(size=224, fit='pad')"
    assert pickle.loads(pickle.dumps(transform)) == transform
    assert ImageTransform(**vars(transform)) == transform
