"""Augmentation: random, within its limits, and the same for the same seed."""

from __future__ import annotations

import itertools
import pickle

import numpy as np
import pytest
from PIL import Image
from shape_cases import gradient

from captioner.data.images import Augmentation, ImageTransform, open_image


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
    pixels, whole = transform.photo(path, augment.least_share).pixels, open_image(path)
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
