"""Figures of several rows: every panel is there, in the row of its head or model and the column of its word."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from captioner.heatmaps import comparison_figure, heads_figure
from captioner.heatmaps.heat import drawn_size, heat_panels, resized
from captioner.heatmaps.layout import SENTINEL
from captioner.types import AttentionMaps, GridMaps, RegionMaps, WordMaps

SIZE = (180, 120)
WORDS = ("two", "dogs", "run")


def make_photo(size: tuple[int, int] = SIZE) -> Image.Image:
    pixels = np.random.default_rng(1).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def grid_maps(words: tuple[str, ...] = WORDS, num_heads: int = 4, size: tuple[int, int] = SIZE) -> GridMaps:
    shape = (len(words), num_heads, 4, 5)
    heads = np.random.default_rng(len(words)).dirichlet(np.ones(20), shape[:2]).astype(np.float32).reshape(shape)
    return GridMaps(words, heads.mean(axis=1), size, (0, 0, *size), heads=heads)


def region_maps(words: tuple[str, ...] = WORDS) -> RegionMaps:
    alpha = np.random.default_rng(3).dirichlet(np.ones(2), len(words)).astype(np.float32)
    return RegionMaps(words, alpha, SIZE, np.array([(10, 20, 60, 70), (90, 30, 170, 100)], dtype=np.float32))


def places(page: Image.Image, maps: AttentionMaps) -> list[tuple[int, int]]:
    """Where (x, y) the panels of maps stand on a page, one a word; each once."""
    pixels, found = np.asarray(page), []
    photo = make_photo(maps.image_size)
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
    page = heads_figure(make_photo(), maps)
    assert_table([places(page, replace(maps, alpha=maps.heads[:, i], heads=None)) for i in range(4)])


def test_models_are_rows_and_words_are_columns_for_grids_and_regions_alike():
    first, second, third = grid_maps(), grid_maps(num_heads=2), region_maps()
    page = comparison_figure(make_photo(), [("additive", first), ("dot", second), ("Up-Down", third)])
    assert_table([places(page, first), places(page, second), places(page, third)])


def test_long_captions_go_on_below():
    size = (960, 60)  # wide panels
    maps = grid_maps(tuple(f"word{i}" for i in range(9)), num_heads=2, size=size)
    page = heads_figure(make_photo(size), maps)
    assert page.width < 2100
    first, second = (places(page, replace(maps, alpha=maps.heads[:, i], heads=None)) for i in range(2))
    for start in (0, 3, 6):
        assert_table([first[start : start + 3], second[start : start + 3]])
    assert second[2][1] < first[3][1]
    assert second[5][1] < first[6][1]


def test_a_shared_scale_is_one_for_all_rows():
    sure, unsure = grid_maps(), grid_maps()
    unsure = replace(unsure, alpha=unsure.alpha / 3)
    page = comparison_figure(make_photo(), [("sure", sure), ("unsure", unsure)], shared_scale=True)
    alone = comparison_figure(make_photo(), [("sure", sure), ("unsure", unsure)])
    assert page.size[1] == alone.size[1]
    hot = [(np.asarray(each).astype(int) @ (1, 0, -1) > 120).sum() for each in (page, alone)]
    assert hot[0] < 0.8 * hot[1]


def test_a_row_with_a_sentinel_has_its_bars():
    maps = grid_maps()
    with_it = replace(maps, sentinel=np.full(3, 0.5, dtype=np.float32))
    page = np.asarray(comparison_figure(make_photo(), [("adaptive", with_it), ("additive", maps)]))
    blue = (page == SENTINEL).all(axis=-1)
    width = drawn_size(make_photo(), 120)[0]
    assert blue.any(axis=0).sum() == pytest.approx(3 * width / 2, abs=3)
    assert blue.any(axis=1).sum() < 6  # one row has them


@pytest.mark.parametrize("num_words", [0, 1])
@pytest.mark.parametrize("size", [(3000, 60), (60, 3000), (1, 1), SIZE])
def test_every_shape_of_photo_and_caption_is_drawn(num_words, size):
    maps = grid_maps(("word",) * num_words, size=size)
    photo = make_photo(size)
    assert max(heads_figure(photo, maps).size) < 3000
    assert max(comparison_figure(photo, [("x" * 300, maps)]).size) < 3000


def test_sentences_are_compared_too():
    maps = WordMaps(("a", "b"), np.eye(2, dtype=np.float32), ("c", "d"))
    page = comparison_figure(None, [("additive", maps), ("dot", replace(maps, sentinel=np.zeros(2)))])
    assert (np.asarray(page) == (252, 255, 164)).all(axis=-1).sum() > 4 * 20 * 20


def test_heads_have_names():
    photo, maps = make_photo(), grid_maps(num_heads=2)
    plain = heads_figure(photo, maps)
    assert plain.tobytes() == heads_figure(photo, replace(maps, head_names=("head 1", "head 2"))).tobytes()
    assert heads_figure(photo, replace(maps, head_names=("layer 1, head 1", "b"))).width > plain.width
    with pytest.raises(ValueError, match="3 names for 2 heads"):
        heads_figure(photo, replace(maps, head_names=("a", "b", "c")))


def test_maps_without_heads_are_refused():
    with pytest.raises(ValueError, match="hold no heads"):
        heads_figure(make_photo(), replace(grid_maps(), heads=None))


def test_what_cannot_be_compared_is_refused():
    photo, maps = make_photo(), grid_maps()
    sentence = WordMaps(WORDS, np.ones((3, 1)), ("x",))
    with pytest.raises(ValueError, match="compare the same words"):
        comparison_figure(photo, [("a", maps), ("b", grid_maps(("three", "dogs", "run")))])
    with pytest.raises(ValueError, match="compare them apart"):
        comparison_figure(photo, [("a", maps), ("b", sentence)])
    with pytest.raises(ValueError, match="at least one"):
        comparison_figure(photo, [])
    with pytest.raises(ValueError, match="full size"):
        comparison_figure(photo, [("a", maps), ("b", replace(maps, image_size=(120, 180)))])
