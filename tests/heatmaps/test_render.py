"""Figures and animations: every word is there, the heat lies where the weight is, nothing crashes."""

from __future__ import annotations

import numpy as np
import pytest
from figure_cases import gif_of, make_maps
from PIL import Image

from captioner.heatmaps import animation, figure
from captioner.heatmaps.heat import drawn_size, heat_panels, highest_weight
from captioner.types import GridMaps

SIZES = [(90, 60), (300, 100), (100, 300), (3000, 60), (60, 3000), (2, 2), (1, 1)]


def make_photo(size: tuple[int, int] = (90, 60)) -> Image.Image:
    pixels = np.random.default_rng(1).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("num_words", [0, 1, 25])
def test_every_shape_of_photo_and_caption_is_drawn(size, num_words):
    maps = make_maps(["word"] * num_words, size)
    page = figure(make_photo(size), maps, side=64)
    frames = animation(make_photo(size), maps, side=64)
    assert page.mode == "RGB"
    assert max(page.size) < 4000
    assert len(frames) == max(1, num_words)
    assert len({frame.size for frame in frames}) == 1


def test_without_words_the_photo_stands_alone():
    photo = make_photo()
    (frame,) = animation(photo, make_maps([]))
    assert gif_of([frame]).n_frames == 1
    page = figure(photo, make_maps([]))
    assert np.asarray(page).std() > 20
    assert frame.width / frame.height == pytest.approx(photo.width / photo.height, rel=0.02)


@pytest.mark.parametrize("smooth", [True, False])
@pytest.mark.parametrize("size", [(300, 100), (100, 300)])
def test_the_heat_lies_on_its_cell(size, smooth):
    """On a grey photo the hottest pixels of a panel are those of the cell that has the weight."""
    alpha = np.zeros((1, 4, 5), dtype=np.float32)
    alpha[0, 1, 3] = 1
    box = (0, -100, 300, 200) if size == (300, 100) else (0, 100, 100, 200)
    maps = GridMaps(("cell",), alpha, size, box)
    picture = Image.new("RGB", drawn_size(Image.new("RGB", size), 200), (128, 128, 128))
    (panel,) = heat_panels(picture, maps, smooth)
    red = np.asarray(panel)[..., 0].astype(float)
    y, x = (np.argwhere(red > 0.98 * red.max()).mean(axis=0) + 0.5) / red.shape * size[::-1]
    x0, y0, x1, y1 = box
    column, row = (x - x0) / (x1 - x0) * 5, (y - y0) / (y1 - y0) * 4
    assert 3 <= column <= 4
    assert 1 <= row <= 2


def test_panels_have_their_own_scale_or_share_one():
    alpha = np.zeros((2, 4, 5), dtype=np.float32)
    alpha[:, 1, 1] = 0.9, 0.3
    maps = GridMaps(("sure", "unsure"), alpha, (90, 60), (0, 0, 90, 60))
    picture = Image.new("RGB", (90, 60), (128, 128, 128))
    sure, unsure = heat_panels(picture, maps, smooth=True)
    assert sure.tobytes() == unsure.tobytes()
    highest = highest_weight(maps, picture.size, smooth=True)
    sure, unsure = heat_panels(picture, maps, smooth=True, highest=highest)
    assert np.asarray(unsure).max() < 0.8 * np.asarray(sure).max()


def test_a_map_without_weight_is_drawn_cold():
    maps = GridMaps(("none",), np.zeros((1, 4, 5), dtype=np.float32), (90, 60), (0, 0, 90, 60))
    (panel,) = heat_panels(make_photo(), maps, smooth=True)
    pixels = np.asarray(panel).astype(int)
    assert (pixels.max(axis=-1) - pixels.min(axis=-1)).max() == 0


def test_what_the_model_never_saw_is_darker():
    maps = GridMaps(("x",), np.zeros((1, 4, 5), dtype=np.float32), (90, 60), (15, 0, 75, 60))
    (panel,) = heat_panels(Image.new("RGB", (90, 60), "white"), maps, smooth=True)
    values = np.asarray(panel)[30, :, 0].astype(int)
    assert set(values[:15]) == set(values[75:]) == {60}
    assert set(values[15:75]) == {150}
