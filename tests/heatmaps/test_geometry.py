"""From a photo file to the encoder's square and back: weight on an object's cell lights its pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from captioner.data.images import ImageTransform, open_image
from captioner.heatmaps import project

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
