"""Figures and animations: every word is there, the heat lies where the weight is, nothing crashes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from figure_cases import gif_of, make_maps
from PIL import Image

from captioner.heatmaps import animation, comparison_figure, figure, heads_figure
from captioner.heatmaps.heat import drawn_size, heat_panels, highest_weight, resized
from captioner.heatmaps.layout import SENTINEL
from captioner.types import AttentionMaps, GridMaps, RegionMaps, WordMaps

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


ROW_SIZE = (180, 120)


ROW_WORDS = ("two", "dogs", "run")


def photo_of_rows(size: tuple[int, int] = ROW_SIZE) -> Image.Image:
    pixels = np.random.default_rng(1).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def grid_maps(words: tuple[str, ...] = ROW_WORDS, num_heads: int = 4, size: tuple[int, int] = ROW_SIZE) -> GridMaps:
    shape = (len(words), num_heads, 4, 5)
    heads = np.random.default_rng(len(words)).dirichlet(np.ones(20), shape[:2]).astype(np.float32).reshape(shape)
    return GridMaps(words, heads.mean(axis=1), size, (0, 0, *size), heads=heads)


def region_maps(words: tuple[str, ...] = ROW_WORDS) -> RegionMaps:
    alpha = np.random.default_rng(3).dirichlet(np.ones(2), len(words)).astype(np.float32)
    return RegionMaps(words, alpha, ROW_SIZE, np.array([(10, 20, 60, 70), (90, 30, 170, 100)], dtype=np.float32))


def places(page: Image.Image, maps: AttentionMaps) -> list[tuple[int, int]]:
    """Where (x, y) the panels of maps stand on a page, one a word; each once."""
    pixels, found = np.asarray(page), []
    photo = photo_of_rows(maps.image_size)
    for panel in map(np.asarray, heat_panels(resized(photo, drawn_size(photo, 120)), maps, smooth=True)):
        height, width = panel.shape[:2]
        inner = (page.height - height + 1, page.width - width + 1)
        corners = np.argwhere((pixels[: inner[0], : inner[1]] == panel[0, 0]).all(axis=-1))
        (place,) = [(x, y) for y, x in corners.tolist() if (pixels[y : y + height, x : x + width] == panel).all()]
        found.append(place)
    return found


def assert_table(rows: list[list[tuple[int, int]]]) -> None:
    """Panels of a row stand beside one another, those of a word below one another."""
    table = np.array(rows)  # (rows, words, 2)
    assert (table[:, :, 0] == table[:1, :, 0]).all()
    assert (table[:, :, 1] == table[:, :1, 1]).all()
    assert (np.diff(table[0, :, 0]) > 0).all()
    assert (np.diff(table[:, 0, 1]) > 0).all()


def test_heads_are_rows_and_words_are_columns():
    maps = grid_maps()
    page = heads_figure(photo_of_rows(), maps)
    assert_table([places(page, replace(maps, alpha=maps.heads[:, i], heads=None)) for i in range(4)])


def test_models_are_rows_and_words_are_columns_for_grids_and_regions_alike():
    first, second, third = grid_maps(), grid_maps(num_heads=2), region_maps()
    page = comparison_figure(photo_of_rows(), [("additive", first), ("dot", second), ("Up-Down", third)])
    assert_table([places(page, first), places(page, second), places(page, third)])


def test_long_captions_go_on_below():
    size = (960, 60)  # wide panels
    maps = grid_maps(tuple(f"word{i}" for i in range(9)), num_heads=2, size=size)
    page = heads_figure(photo_of_rows(size), maps)
    assert page.width < 2100
    first, second = (places(page, replace(maps, alpha=maps.heads[:, i], heads=None)) for i in range(2))
    for start in (0, 3, 6):
        assert_table([first[start : start + 3], second[start : start + 3]])
    assert second[2][1] < first[3][1]
    assert second[5][1] < first[6][1]


def test_a_shared_scale_is_one_for_all_rows():
    sure, unsure = grid_maps(), grid_maps()
    unsure = replace(unsure, alpha=unsure.alpha / 3)
    page = comparison_figure(photo_of_rows(), [("sure", sure), ("unsure", unsure)], shared_scale=True)
    alone = comparison_figure(photo_of_rows(), [("sure", sure), ("unsure", unsure)])
    assert page.size[1] == alone.size[1]
    hot = [(np.asarray(each).astype(int) @ (1, 0, -1) > 120).sum() for each in (page, alone)]
    assert hot[0] < 0.8 * hot[1]


def test_a_row_with_a_sentinel_has_its_bars():
    maps = grid_maps()
    with_it = replace(maps, sentinel=np.full(3, 0.5, dtype=np.float32))
    page = np.asarray(comparison_figure(photo_of_rows(), [("adaptive", with_it), ("additive", maps)]))
    blue = (page == SENTINEL).all(axis=-1)
    width = drawn_size(photo_of_rows(), 120)[0]
    assert blue.any(axis=0).sum() == pytest.approx(3 * width / 2, abs=3)
    assert blue.any(axis=1).sum() < 6  # one row has them


@pytest.mark.parametrize("num_words", [0, 1])
@pytest.mark.parametrize("size", [(3000, 60), (60, 3000), (1, 1), ROW_SIZE])
def test_every_shape_of_photo_and_caption_has_rows(num_words, size):
    maps = grid_maps(("word",) * num_words, size=size)
    photo = photo_of_rows(size)
    assert max(heads_figure(photo, maps).size) < 3000
    assert max(comparison_figure(photo, [("x" * 300, maps)]).size) < 3000


def test_sentences_are_compared_too():
    maps = WordMaps(("a", "b"), np.eye(2, dtype=np.float32), ("c", "d"))
    page = comparison_figure(None, [("additive", maps), ("dot", replace(maps, sentinel=np.zeros(2)))])
    assert (np.asarray(page) == (252, 255, 164)).all(axis=-1).sum() > 4 * 20 * 20


def test_heads_have_names():
    photo, maps = photo_of_rows(), grid_maps(num_heads=2)
    plain = heads_figure(photo, maps)
    assert plain.tobytes() == heads_figure(photo, replace(maps, head_names=("head 1", "head 2"))).tobytes()
    assert heads_figure(photo, replace(maps, head_names=("layer 1, head 1", "b"))).width > plain.width
    with pytest.raises(ValueError, match="3 names for 2 heads"):
        heads_figure(photo, replace(maps, head_names=("a", "b", "c")))


def test_maps_without_heads_are_refused():
    with pytest.raises(ValueError, match="hold no heads"):
        heads_figure(photo_of_rows(), replace(grid_maps(), heads=None))


def test_what_cannot_be_compared_is_refused():
    photo, maps = photo_of_rows(), grid_maps()
    sentence = WordMaps(ROW_WORDS, np.ones((3, 1)), ("x",))
    with pytest.raises(ValueError, match="compare the same words"):
        comparison_figure(photo, [("a", maps), ("b", grid_maps(("three", "dogs", "run")))])
    with pytest.raises(ValueError, match="compare them apart"):
        comparison_figure(photo, [("a", maps), ("b", sentence)])
    with pytest.raises(ValueError, match="at least one"):
        comparison_figure(photo, [])
    with pytest.raises(ValueError, match="full size"):
        comparison_figure(photo, [("a", maps), ("b", replace(maps, image_size=(120, 180)))])
