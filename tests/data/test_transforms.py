"""A square covers exactly what `grid_box` says; augmentation hangs on its seed alone."""

from __future__ import annotations

import itertools
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from captioner.data.images import open_image
from captioner.data.transforms import PAD_VALUE, Augmentation, ImageTransform

FITS = ("squash", "crop", "pad")
SHAPES = [(1, 1), (2, 2), (3000, 60), (60, 3000), (640, 427), (427, 640), (333, 333), (5000, 1), (7, 4)]


def gradient(width: int, height: int) -> Image.Image:
    """A photo whose red is its x and whose green its y, from 0 to 255."""
    x, y = np.meshgrid((np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height)
    return Image.fromarray((255 * np.stack([x, y, np.zeros_like(x)], axis=-1)).round().astype(np.uint8))


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
    photo, whole = transform.open(path), open_image(path)
    assert photo.size == whole.size == shape
    assert min(photo.pixels.size) >= 2 * 64
    assert photo.pixels.width < shape[0]
    away = (transform(photo.pixels, photo.box).double() - transform(whole).double()).abs()
    assert away.mean() < 0.5  # of 255
    assert away.max() <= 6


def test_photos_below_four_times_the_square_are_not_changed(tmp_path):
    transform, path = ImageTransform(64), tmp_path / "a.jpg"
    gradient(500, 255).save(path)
    photo = transform.open(path)
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


# --------------------------------------------------------------------------------------- augmentation


def test_the_same_seed_gives_the_same_image():
    photo = gradient(60, 40)
    augment = Augmentation()
    first = [augment(photo, seed) for seed in range(20)]
    again = [augment(photo, seed) for seed in reversed(range(20))][::-1]
    assert [image.tobytes() for image in first] == [image.tobytes() for image in again]
    assert len({image.tobytes() for image in first}) == 20
    assert photo.tobytes() == gradient(60, 40).tobytes()
    assert {image.mode for image in first} == {"RGB"}


@pytest.mark.parametrize("shape", [(120, 80), (80, 120), (900, 60)])
def test_crops_keep_to_their_scale_and_ratio(shape):
    width, height = shape
    augment = Augmentation(flip=0, scale=(0.5, 0.9), ratio=(0.8, 1.25), brightness=0, contrast=0, saturation=0)
    for seed in range(200):
        crop = augment(Image.new("RGB", shape), seed)
        x, y = crop.width / width, crop.height / height  # shares of the sides
        rounding = 0.6 / height + 0.6 / width
        assert 0.5 - rounding <= x * y <= 0.9 + rounding
        assert 0.8 * (1 - 2 * rounding) <= x / y <= 1.25 * (1 + 2 * rounding)


@pytest.mark.parametrize(
    "ranges", [{}, {"scale": (0.1, 0.2), "ratio": (0.05, 3.0)}, {"scale": (0.3, 1.0), "ratio": (1.0, 1.0)}]
)
def test_no_crop_is_smaller_than_the_least_share(ranges):
    augment = Augmentation(brightness=0, contrast=0, saturation=0, **ranges)
    shares = [np.divide(augment(Image.new("RGB", (400, 300)), seed).size, (400, 300)) for seed in range(300)]
    assert min(map(min, shares)) >= augment.least_share - 0.003  # sides are whole pixels
    assert min(map(min, shares)) < augment.least_share * 1.1


def test_a_crop_of_a_large_photo_has_enough_pixels(tmp_path):
    transform, augment, path = (
        ImageTransform(32),
        Augmentation(brightness=0, contrast=0, saturation=0),
        tmp_path / "a.jpg",
    )
    gradient(1003, 750).save(path)
    pixels, whole = transform.open(path, augment.least_share).pixels, open_image(path)
    assert pixels.width < whole.width == 1003
    for seed in range(20):
        crop, of_whole = augment(pixels, seed), augment(whole, seed)
        assert min(crop.size) >= 2 * 32 - 1  # sides are whole pixels
        away = (transform(crop).double() - transform(of_whole).double()).abs()
        assert away.max() <= 5  # the same crop and flip, to a pixel of the smaller picture


def test_crops_lie_anywhere():
    """Every part of the photo is kept at times, the corners included."""
    augment = Augmentation(flip=0, scale=(0.6, 0.6), brightness=0, contrast=0, saturation=0)
    crops = [np.asarray(augment(gradient(60, 40), seed)) for seed in range(300)]
    whole = np.asarray(gradient(60, 40))
    assert any((crop[0, 0] == whole[0, 0]).all() for crop in crops)
    assert any((crop[-1, -1] == whole[-1, -1]).all() for crop in crops)


def test_flips_come_as_often_as_asked():
    plain = {"scale": (1.0, 1.0), "brightness": 0.0, "contrast": 0.0, "saturation": 0.0}
    photo = gradient(30, 20)
    mirrored = photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT).tobytes()
    for flip, low, high in ((0.0, 0, 0), (0.25, 20, 80), (1.0, 200, 200)):
        images = [Augmentation(flip, **plain)(photo, seed).tobytes() for seed in range(200)]
        assert set(images) <= {photo.tobytes(), mirrored}
        assert low <= images.count(mirrored) <= high


@pytest.mark.parametrize("option", ["brightness", "contrast", "saturation"])
def test_colour_jitter_stays_within_its_strength(option):
    off = {"flip": 0.0, "scale": (1.0, 1.0), "brightness": 0.0, "contrast": 0.0, "saturation": 0.0}
    photo = Image.fromarray(np.array([[[60, 100, 120], [120, 90, 60]]], np.uint8))

    def measure(image: Image.Image) -> float:
        pixels = np.asarray(image, dtype=float)
        if option == "brightness":
            return pixels.mean()
        return np.ptp(pixels @ [0.299, 0.587, 0.114]) if option == "contrast" else np.ptp(pixels, axis=-1).mean()

    factors = [measure(Augmentation(**{**off, option: 0.3})(photo, seed)) / measure(photo) for seed in range(100)]
    slack = 0.2 if option == "contrast" else 0.03  # the contrast here spans few levels, which are rounded
    assert 0.7 - slack <= min(factors) < 0.85
    assert 1.15 < max(factors) <= 1.3 + slack


def test_switching_one_option_off_leaves_the_others_as_they_were():
    photo = gradient(60, 40)
    for seed in range(10):
        with_flip = Augmentation(flip=1)(photo, seed)
        without = Augmentation(flip=0)(photo, seed)
        assert with_flip.size == without.size
        colourless = Augmentation(flip=0, brightness=0, contrast=0, saturation=0)(photo, seed)
        assert colourless.size == without.size


@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (3000, 60), (1, 500)])
def test_augmentation_takes_any_shape(shape):
    for seed in range(20):
        image = Augmentation(scale=(0.01, 1.0), ratio=(0.1, 10.0))(Image.new("RGB", shape), seed)
        assert 1 <= image.width <= shape[0]
        assert 1 <= image.height <= shape[1]


@pytest.mark.parametrize(
    "arguments",
    [
        *[
            {name: value}
            for name, value in itertools.product(("flip", "brightness", "contrast", "saturation"), (-0.1, 1.1))
        ],
        *[{"scale": value} for value in ((0.0, 1.0), (0.9, 0.5), (0.5, 1.2))],
        *[{"ratio": value} for value in ((0.0, 1.0), (1.3, 0.8))],
    ],
)
def test_augmentation_arguments_are_checked(arguments):
    (name,) = arguments
    with pytest.raises(ValueError, match=name):
        Augmentation(**arguments)


def test_augmentation_is_a_value():
    augment = Augmentation()
    assert pickle.loads(pickle.dumps(augment)) == augment
    assert Augmentation(**vars(augment)) == augment
    assert repr(augment).startswith("Augmentation(flip=0.5, scale=(0.6, 1.0), ratio=")
