"""Weights land on the pixels of their cells, and none is lost or made."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from captioner.data.images import ImageTransform, open_image
from captioner.heatmaps import project
from captioner.heatmaps.project import peak, project_regions

SIZES = [(640, 480), (480, 640), (300, 100), (100, 300), (3000, 60), (2, 2), (1, 1), (7, 5)]


def random_map(height: int = 9, width: int = 9, seed: int = 0) -> np.ndarray:
    weights = np.random.default_rng(seed).gamma(0.5, size=(height, width))
    return (weights / weights.sum()).astype(np.float32)


def one_cell(row: int, column: int, height: int = 6, width: int = 6) -> np.ndarray:
    alpha = np.zeros((height, width), dtype=np.float32)
    alpha[row, column] = 1
    return alpha


def boxes(width: int, height: int) -> list[tuple[float, float, float, float]]:
    """What squash, crop and pad make of a photo."""
    short, long = min(width, height), max(width, height)

    def centred(side: float) -> tuple[float, float, float, float]:
        return ((width - side) / 2, (height - side) / 2, (width + side) / 2, (height + side) / 2)

    return [(0, 0, width, height), centred(short), centred(long)]


@pytest.mark.parametrize("smooth", [True, False])
@pytest.mark.parametrize("size", SIZES)
def test_the_weight_of_the_box_is_the_weight_of_the_map(size, smooth):
    alpha = random_map(height=5, width=9)
    density = project(alpha, (0, 0, *size), size, smooth)
    assert density.shape == (size[1], size[0])
    assert density.dtype == np.float32
    assert density.mean() == pytest.approx(alpha.mean(), rel=1e-4)
    assert density.min() >= -1e-7


@pytest.mark.parametrize("smooth", [True, False])
@pytest.mark.parametrize("size", SIZES)
def test_an_even_map_stays_even_and_ends_with_its_box(size, smooth):
    width, height = size
    for x0, y0, x1, y1 in boxes(width, height):
        density = project(np.full((9, 9), 0.25), (x0, y0, x1, y1), size, smooth)
        x, y = np.arange(width), np.arange(height)
        inside = np.outer((y >= y0) & (y + 1 <= y1), (x >= x0) & (x + 1 <= x1))
        outside = ~np.outer((y + 1 > y0) & (y < y1), (x + 1 > x0) & (x < x1))
        np.testing.assert_allclose(density[inside], 0.25, rtol=1e-4)
        assert not density[outside].any()


def test_blocky_pixels_take_the_weight_of_the_cell_they_lie_in():
    alpha = random_map(3, 4)
    expected = np.kron(alpha, np.ones((10, 20)))
    np.testing.assert_allclose(project(alpha, (0, 0, 80, 30), (80, 30), smooth=False), expected, rtol=1e-5)


def test_a_pixel_over_several_cells_takes_their_mean():
    alpha = random_map(4, 4)
    expected = alpha.reshape(2, 2, 2, 2).mean(axis=(1, 3))
    np.testing.assert_allclose(project(alpha, (0, 0, 2, 2), (2, 2), smooth=False), expected, rtol=1e-5)


@pytest.mark.parametrize("smooth", [True, False])
def test_the_photo_is_a_window_on_the_padded_picture(smooth):
    """Padding cuts a part out of the same density; it moves and scales nothing."""
    alpha = random_map()
    whole = project(alpha, (0, 0, 300, 300), (300, 300), smooth)
    padded = project(alpha, (0, -100, 300, 200), (300, 100), smooth)
    np.testing.assert_allclose(padded, whole[100:200], atol=1e-6)
    cropped = project(alpha, (50, 0, 350, 300), (400, 300), smooth)
    np.testing.assert_allclose(cropped[:, 50:350], whole, atol=1e-6)


def test_smooth_is_the_blocky_map_under_a_gaussian():
    ndimage = pytest.importorskip("scipy.ndimage")
    alpha = random_map(14, 14)
    blocky = project(alpha, (0, 0, 448, 448), (448, 448), smooth=False)
    blurred = ndimage.gaussian_filter(blocky, sigma=1.25 * 32, mode="reflect", truncate=6)
    ours = project(alpha, (0, 0, 448, 448), (448, 448))
    np.testing.assert_allclose(ours, blurred, atol=2e-3 * blurred.max())


def test_smooth_looks_as_the_authors_drew_it():
    transform = pytest.importorskip("skimage.transform")
    alpha = random_map(14, 14)  # within a sigma of the border, scikit-image mirrors differently
    theirs = transform.pyramid_expand(alpha.astype(float), upscale=16, sigma=20)
    ours = project(alpha, (0, 0, 224, 224), (224, 224))
    inner = np.s_[30:-30, 30:-30]
    np.testing.assert_allclose(ours[inner], theirs[inner], atol=0.05 * theirs.max())


@pytest.mark.parametrize("smooth", [True, False])
@pytest.mark.parametrize("side", [1, 2, 5, 9, 14, 28])
def test_the_brightest_pixel_lies_in_the_only_cell_with_weight(side, smooth):
    for cell in {(0, 0), (side - 1, 0), (side // 2, side // 3), (side // 2, side - 1)}:
        density = project(one_cell(*cell, side, side), (10, 5, 310, 85), (320, 90), smooth)
        y, x = np.unravel_index(density.argmax(), density.shape)
        assert (int((y + 0.5 - 5) * side / 80), int((x + 0.5 - 10) * side / 300)) == cell


@pytest.mark.parametrize("smooth", [True, False])
def test_peak_is_the_highest_weight_of_the_map_and_not_of_what_the_photo_shows(smooth):
    alpha = one_cell(0, 0)
    alpha[3, 3] = 0.25
    drawn = project(alpha, (0, -100, 300, 200), (300, 100), smooth)
    assert drawn.max() < 0.5 * peak(alpha, smooth)
    whole = project(alpha, (0, 0, 900, 900), (900, 900), smooth)
    assert peak(alpha, smooth) == pytest.approx(whole.max(), rel=0.02)


@pytest.mark.parametrize("alpha", [np.ones(81), np.ones((2, 9, 9)), np.ones((0, 9))])
def test_weights_that_are_no_grid_are_refused(alpha):
    with pytest.raises(ValueError, match="grid"):
        project(alpha, (0, 0, 10, 10), (10, 10))


def test_an_empty_box_is_refused():
    with pytest.raises(ValueError, match="empty"):
        project(np.ones((2, 2)), (5, 0, 5, 10), (10, 10))


def test_a_pixel_carries_all_boxes_that_cover_it():
    boxes = np.array([(2, 1, 6, 4), (4, 2, 9, 5), (0, 0, 10, 6)], dtype=np.float32)
    alpha = np.array([0.5, 0.3, 0.2], dtype=np.float32)
    expected = np.zeros((6, 10))
    for weight, (x0, y0, x1, y1) in zip(alpha, boxes.astype(int), strict=True):
        expected[y0:y1, x0:x1] += weight
    weights = project_regions(alpha, boxes, (10, 6))
    assert weights.dtype == np.float32
    np.testing.assert_allclose(weights, expected, rtol=1e-6)
    assert weights.max() == pytest.approx(1)  # all of the attention, and never more


def test_boxes_cover_shares_of_pixels_and_end_with_the_photo():
    inside = project_regions(np.ones(1), np.array([(1.25, 0.5, 3.5, 2.0)]), (6, 4))
    assert inside.sum() == pytest.approx(2.25 * 1.5)
    np.testing.assert_allclose(inside[0], [0, 0.375, 0.5, 0.25, 0, 0])
    beyond = project_regions(np.ones(1), np.array([(-5.0, -5.0, 2.0, 99.0)]), (6, 4))
    assert beyond.sum() == pytest.approx(2 * 4)
    nowhere = np.array([(3.0, 3.0, 3.0, 3.0), (4.0, 3.0, 2.0, 1.0), (7.0, 0.0, 9.0, 4.0)])
    assert not project_regions(np.ones(3), nowhere, (6, 4)).any()


SHAPES = [(300, 100), (100, 300), (180, 120), (601, 199)]  # upright (width, height)


GRID = 24


def object_box(width: int, height: int, fit: str) -> tuple[int, int, int, int]:
    """Where the object lies: off the centre on both axes, and inside the middle square for a crop."""
    side = min(width, height)
    left, top = ((width - side) // 2, (height - side) // 2) if fit == "crop" else (0, 0)
    box_width, box_height = (side, side) if fit == "crop" else (width, height)
    x0, y0 = left + round(0.55 * box_width), top + round(0.15 * box_height)
    return (x0, y0, x0 + round(0.3 * box_width), y0 + round(0.25 * box_height))


def save_turned(upright: Image.Image, orientation: int, path: Path) -> None:
    """Store a photo as a camera does: turned, with the EXIF tag that says how to set it upright."""
    turn = {  # the inverse of what each orientation asks for
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(turn[orientation]) if orientation in turn else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(path, exif=exif)
    assert ImageOps.exif_transpose(Image.open(path)).size == upright.size


@pytest.mark.parametrize("fit", ["squash", "crop", "pad"])
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"{shape[0]}x{shape[1]}")
def test_weight_on_the_cell_of_an_object_lights_its_pixels(tmp_path, shape, orientation, fit):
    x0, y0, x1, y1 = object_box(*shape, fit)
    upright = Image.new("RGB", shape, (10, 10, 10))
    upright.paste((255, 255, 255), (x0, y0, x1, y1))
    save_turned(upright, orientation, tmp_path / "photo.png")

    photo = open_image(tmp_path / "photo.png")
    assert photo.size == shape
    transform = ImageTransform(size=GRID * 8, fit=fit)
    pixels = transform(photo).float().mean(dim=0)  # (S, S)
    cells = pixels.reshape(GRID, 8, GRID, 8).mean(dim=(1, 3)).numpy()  # what an encoder's grid would see
    alpha = np.zeros((GRID, GRID), dtype=np.float32)
    alpha[np.unravel_index(cells.argmax(), cells.shape)] = 1

    box = transform.grid_box(*photo.size)
    blocky = project(alpha, box, photo.size, smooth=False)
    on_object = blocky[y0:y1, x0:x1].sum() / blocky.sum()
    assert on_object > 0.95
    smooth = project(alpha, box, photo.size, smooth=True)
    y, x = np.unravel_index(smooth.argmax(), smooth.shape)
    assert x0 <= x < x1
    assert y0 <= y < y1
    assert smooth[y0:y1, x0:x1].mean() > 4 * smooth.mean()


@pytest.mark.parametrize("fit", ["squash", "crop", "pad"])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"{shape[0]}x{shape[1]}")
def test_brightness_as_weight_draws_the_photo_itself(shape, fit):
    """With every cell's brightness as its weight, the projection is a coarse copy of the photo."""
    x, y = np.meshgrid(np.arange(shape[0]) / shape[0], np.arange(shape[1]) / shape[1])
    values = 128 + 60 * np.sin(5 * x + 1) + 60 * np.cos(4 * y)
    photo = Image.fromarray(np.repeat(values[..., None], 3, axis=-1).round().astype(np.uint8))
    transform = ImageTransform(size=GRID * 16, fit=fit)
    alpha = transform(photo).float().mean(dim=0).reshape(GRID, 16, GRID, 16).mean(dim=(1, 3)).numpy()
    box = transform.grid_box(*shape)
    copy = project(alpha, box, shape, smooth=False)
    inside = copy > 0
    if fit == "pad":  # cells across the photo's edge are mixed with the padding's grey
        cell = (box[2] - box[0]) / GRID
        distance = np.minimum.reduce(
            [
                np.arange(shape[0])[None] + 0 * y,
                (shape[0] - 1 - np.arange(shape[0]))[None] + 0 * y,
                np.arange(shape[1])[:, None] + 0 * x,
                (shape[1] - 1 - np.arange(shape[1]))[:, None] + 0 * x,
            ]
        )
        inside &= distance > cell
    assert inside.any()
    assert np.corrcoef(copy[inside], values[inside])[0, 1] > 0.95
