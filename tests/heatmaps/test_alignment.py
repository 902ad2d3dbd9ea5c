"""Maps of sentences: a square for each pair of words, as bright as its weight, with the words at the sides."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from captioner.heatmaps import animation, figure, heads_figure
from captioner.heatmaps.alignment import cell_size, matrix
from captioner.heatmaps.layout import SENTINEL
from captioner.types import WordMaps

LONG = "Donaudampfschifffahrtsgesellschaft"


def make_maps(num_words: int, num_source: int, source: str = "wort", seed: int = 0) -> WordMaps:
    rng = np.random.default_rng(seed)
    alpha = rng.dirichlet(np.ones(num_source), num_words).astype(np.float32)
    return WordMaps(("word",) * num_words, alpha.reshape(num_words, num_source), (source,) * num_source)


def brightness(pixels: np.ndarray) -> np.ndarray:
    return pixels @ np.array([0.299, 0.587, 0.114])


def assert_as_bright_as_heavy(squares: np.ndarray, maps: WordMaps, cell: int) -> None:
    """Squares in the order of their weights are in the order of their brightness; nearly equal ones may be equal."""
    centres = brightness(squares[cell // 2 :: cell, cell // 2 :: cell])  # (T, S)
    assert centres.shape == maps.alpha.shape
    in_order = centres.ravel()[maps.alpha.argsort(axis=None)]
    assert (np.diff(in_order) > -0.5).all()
    assert centres.size == 1 or in_order[-1] > in_order[0] + 30


@pytest.mark.parametrize("cell", [4, 12])
def test_the_brightness_of_squares_is_the_order_of_the_weights(cell):
    maps = make_maps(5, 8)
    picture = np.asarray(matrix(maps, cell))
    assert picture.shape == (5 * cell, 8 * cell, 3)  # squares
    assert_as_bright_as_heavy(picture, maps, cell)
    assert tuple(picture.reshape(-1, 3)[brightness(picture).argmax()]) == (252, 255, 164)


def test_matrices_share_a_scale_when_they_are_told_to():
    maps = make_maps(3, 3)
    half = replace(maps, alpha=maps.alpha / 2)
    assert matrix(half, 8).tobytes() == matrix(maps, 8).tobytes()
    highest = float(maps.alpha.max())
    assert np.asarray(matrix(half, 8, highest)).max() < np.asarray(matrix(maps, 8, highest)).max()


@pytest.mark.parametrize("cell", [14, 24, 40])
@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (9, 2)])
def test_words_stand_at_the_sides_of_the_same_squares(shape, cell):
    maps = make_maps(*shape, source=LONG)
    picture = matrix(maps, cell)
    height, width = shape[0] * cell, shape[1] * cell
    squares = np.asarray(picture)[-height:, -width:]
    assert_as_bright_as_heavy(squares, maps, cell)
    words = np.asarray(picture).min(axis=-1) < 100
    words[-height:, -width:] = False
    assert words[:-height, -width:].any()
    assert words[-height:, :-width].any()


@pytest.mark.parametrize("word", ["hi", LONG, "x" * 200])
@pytest.mark.parametrize("place", [0, 2, 4])
def test_a_word_stands_over_its_own_column_and_beside_its_own_row(word, place):
    cell = 20
    words = tuple(word if i == place else "" for i in range(5))
    maps = WordMaps(words, np.full((5, 5), 0.2, dtype=np.float32), words)
    dark = np.asarray(matrix(maps, cell)).min(axis=-1) < 128
    side = 5 * cell
    columns = np.flatnonzero(dark[:-side, -side:].any(axis=0))
    rows = np.flatnonzero(dark[-side:, :-side].any(axis=1))
    assert place * cell <= columns.min() <= columns.max() < (place + 1) * cell
    assert place * cell <= rows.min() <= rows.max() < (place + 1) * cell


def test_short_words_are_upright_and_long_ones_turned():
    letters, words = (matrix(make_maps(4, 4, source), 24).height - 4 * 24 for source in ("a", "letters"))
    assert letters < 32 < words
    assert matrix(make_maps(4, 4, "x" * 300), 24).height - 4 * 24 < 200  # and very long ones cut


@pytest.mark.parametrize("shape", [(0, 3), (1, 1), (1, 60), (60, 1), (30, 40), (60, 60), (200, 10)])
def test_sentences_of_every_length_are_drawn(shape):
    page = figure(None, make_maps(*shape), "a title")
    assert page.mode == "RGB"
    cell = cell_size(make_maps(*shape), 640, smallest=14, largest=40)
    assert page.width >= shape[1] * cell
    assert page.height >= shape[0] * cell
    assert max(page.size) < 4000


@pytest.mark.parametrize("word", ["кошка", "猫", "قطة", "🐈", "\udce9", "", " ", "a\nb", "\x00"])
def test_words_that_a_font_lacks_do_no_harm(word):
    maps = WordMaps((word, word), np.full((2, 3), 1 / 3, dtype=np.float32), (word, "a", word))
    figure(None, maps)


@pytest.mark.parametrize("cell", [6, 20])
def test_a_sentinel_is_a_bar_beside_its_row(cell):
    weights = np.array([1.0, 0.0, 0.5], dtype=np.float32)
    maps = replace(make_maps(3, 4), sentinel=weights)
    picture = np.asarray(matrix(maps, cell))
    blue = (picture == SENTINEL).all(axis=-1)[-3 * cell :]  # below the words
    lengths = [blue[row * cell : (row + 1) * cell].any(axis=0).sum() for row in range(3)]
    assert lengths == pytest.approx(lengths[0] * weights, abs=1)
    assert lengths[0] > 2 * cell


def test_a_scale_tells_the_highest_weight():
    maps = make_maps(3, 4)
    first, other = (figure(None, replace(maps, alpha=maps.alpha * factor)) for factor in (1, 0.5))
    above = (0, 0, first.width, first.height - 45)
    assert first.crop(above).tobytes() == other.crop(above).tobytes()
    assert first.tobytes() != other.tobytes()


@pytest.mark.parametrize("num_heads", [1, 8])
def test_each_head_has_a_matrix(num_heads):
    maps = make_maps(12, 30)  # too many for words at the sides
    heads = np.stack([make_maps(12, 30, seed=seed).alpha for seed in range(num_heads)], axis=1)
    page = np.asarray(heads_figure(None, replace(maps, heads=heads)))
    for i in range(num_heads):
        drawn = np.asarray(matrix(replace(maps, alpha=heads[:, i]), cell_size(maps, 260, smallest=4, largest=24)))
        height, width = drawn.shape[:2]
        inside = page[: len(page) - height + 1, : page.shape[1] - width + 1]
        corners = np.argwhere((inside == drawn[0, 0]).all(axis=-1))
        assert any((page[y : y + height, x : x + width] == drawn).all() for y, x in corners)


def test_a_sentence_has_no_animation():
    for photo in (None, Image.new("RGB", (60, 40))):
        with pytest.raises(ValueError, match="figure"):
            animation(photo, make_maps(2, 2))


def test_source_words_that_do_not_belong_to_the_weights_are_refused():
    with pytest.raises(ValueError, match="alpha has shape"):
        figure(None, WordMaps(("a",), np.ones((1, 2)), ("b",)))
    with pytest.raises(ValueError, match="at least one place"):
        figure(None, WordMaps(("a",), np.ones((1, 0)), ()))
