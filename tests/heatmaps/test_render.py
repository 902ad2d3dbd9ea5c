"""Figures and animations: every word is there, the heat lies where the weight is, nothing crashes."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageSequence

from captioner.heatmaps import animation, figure, save_gif
from captioner.heatmaps.heat import drawn_size, heat_panels, highest_weight
from captioner.heatmaps.layout import SENTINEL
from captioner.heatmaps.text import fit, text_width, wrap
from captioner.types import AttentionMaps, GridMaps

SIZES = [(90, 60), (300, 100), (100, 300), (3000, 60), (60, 3000), (2, 2), (1, 1)]
ODD_WORDS = [
    "кошка",
    "γάτα",
    "猫",
    "قطة",
    "🐈",
    "naïve",
    "l’été",
    "\udce9",
    "",
    " ",
    "a\nb",
    "\x00",
    "x" * 99,
]


def make_photo(size: tuple[int, int] = (90, 60)) -> Image.Image:
    pixels = np.random.default_rng(1).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def make_maps(words: list[str], size: tuple[int, int] = (90, 60), same: bool = False) -> GridMaps:
    alpha = np.random.default_rng(2).dirichlet(np.ones(20), len(words)).reshape(-1, 4, 5).astype(np.float32)
    if same and words:
        alpha[:] = alpha[0]
    return GridMaps(tuple(words), alpha, size, (0, 0, *size))


def gif_of(frames: list[Image.Image]) -> Image.Image:
    file = io.BytesIO()
    save_gif(frames, file)
    return Image.open(file)


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


@pytest.mark.parametrize(("size", "drawn"), [((3000, 60), (400, 25)), ((60, 3000), (25, 400)), ((90, 60), (122, 82))])
def test_panels_keep_the_shape_of_the_photo_but_are_no_strips(size, drawn):
    assert drawn_size(Image.new("RGB", size), 100) == drawn


@pytest.mark.parametrize("word", ODD_WORDS)
def test_words_that_a_font_lacks_do_no_harm(word):
    maps = make_maps([word, word])
    figure(make_photo(), maps, caption=f"{word} {word}", side=64)
    assert gif_of(animation(make_photo(), maps, side=64)).n_frames == 2


@pytest.mark.parametrize("words", [["the"] * 5, [""] * 3, ["a"], ["a", "a", "cat", "cat"], ["x"] * 90])
def test_a_gif_has_one_frame_a_word_even_where_words_and_maps_repeat(words):
    gif = gif_of(animation(make_photo(), make_maps(words, same=True), side=32))
    assert gif.n_frames == len(words)
    if len(words) > 1:
        assert gif.info["loop"] == 0
        assert [frame.info["duration"] for frame in ImageSequence.Iterator(gif)] == [700] * len(words)


def test_a_gif_looks_like_its_frames():
    frames = animation(make_photo(), make_maps(["two", "dogs"]))
    for drawn, read in zip(frames, ImageSequence.Iterator(gif_of(frames)), strict=True):
        difference = np.asarray(drawn, dtype=float) - np.asarray(read.convert("RGB"), dtype=float)
        assert np.abs(difference).mean() < 8
        assert read.convert("RGB").getpixel((1, 1)) == (255, 255, 255)


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


def colourful(picture: Image.Image) -> np.ndarray:
    """Where a picture (H, W) has pixels that are far from grey."""
    pixels = np.asarray(picture).astype(int)
    return pixels.max(axis=-1) - pixels.min(axis=-1) > 40


@pytest.mark.parametrize("shared_scale", [True, False])
def test_a_scale_under_the_panels_runs_from_cold_to_hot(shared_scale):
    """With maps without weight it is all that has a colour."""
    maps = GridMaps(("a", "b"), np.zeros((2, 4, 5), dtype=np.float32), (90, 60), (0, 0, 90, 60))
    page = figure(Image.new("RGB", (90, 60), "grey"), maps, shared_scale=shared_scale)
    y, x = np.nonzero(colourful(page))
    assert page.height - 60 < y.min() <= y.max() < page.height - 20
    assert y.max() - y.min() < 15
    red = np.asarray(page)[y[0], x.min() : x.max() + 1, 0].astype(int)
    assert (np.diff(red) >= -3).all()  # three of the channels' corners are rounded
    assert red[-1] > red[0] + 100


def test_the_scale_says_its_weight_where_panels_share_it():
    maps = make_maps(["two", "dogs"])
    own, shared = (np.asarray(figure(make_photo(), maps, shared_scale=shared))[-45:] < 200 for shared in (False, True))
    assert shared.any(axis=(0, 2)).sum() < 0.7 * own.any(axis=(0, 2)).sum()  # a number, or a sentence
    more = replace(maps, alpha=maps.alpha * 0.5)
    first, other = (figure(make_photo(), each, shared_scale=True) for each in (maps, more))
    height = first.height - 45
    assert first.crop((0, 0, first.width, height)).tobytes() == other.crop((0, 0, first.width, height)).tobytes()
    assert first.tobytes() != other.tobytes()


def test_a_sentinel_is_a_bar_as_long_as_its_weight():
    weights = np.array([0.0, 0.25, 0.5, 1.0], dtype=np.float32)
    maps = replace(make_maps(["a", "b", "c", "d"]), sentinel=weights)
    page = np.asarray(figure(Image.new("RGB", (90, 60), "grey"), maps))
    blue = (page == SENTINEL).all(axis=-1)
    lengths = [run for row in np.unique(blue, axis=0) for run in runs(row)]
    width = drawn_size(Image.new("RGB", (90, 60)), 256)[0]
    assert sorted(lengths) == pytest.approx(width * weights[1:], abs=1)
    with_it, without = (animation(make_photo(), each) for each in (maps, make_maps(["a", "b", "c", "d"])))
    assert [frame.size for frame in with_it] == [frame.size for frame in without]
    blues = [(np.asarray(frame) == SENTINEL).all(axis=-1).sum() for frame in with_it]
    assert blues == sorted(blues)
    assert blues[0] == 0 < blues[1]
    assert blues[1] == pytest.approx(blues[3] / 4, rel=0.1)


def runs(row: np.ndarray) -> list[int]:
    """The lengths of the runs of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], row, [0]])))
    return (edges[1::2] - edges[::2]).tolist()


def test_maps_of_no_kind_are_refused():
    with pytest.raises(TypeError, match="GridMaps, RegionMaps or WordMaps"):
        figure(make_photo(), AttentionMaps(("a",), np.ones((1, 4, 5))))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sentinel": np.ones(3)}, "sentinel has shape"),
        ({"sentinel": np.array([0.5, np.inf])}, "sentinel holds"),
        ({"heads": np.ones((2, 4, 5))}, "heads have shape"),
        ({"heads": np.ones((2, 8, 5, 4))}, "heads have shape"),
        ({"heads": np.full((2, 8, 4, 5), np.nan)}, "heads holds"),
        ({"alpha": np.ones((2, 20))}, "alpha has shape"),
        ({"alpha": np.ones((2, 0, 5))}, "at least one place"),
    ],
)
def test_arrays_that_do_not_belong_together_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        figure(make_photo(), replace(make_maps(["a", "b"]), **changes))


def test_maps_of_a_photo_need_their_photo():
    with pytest.raises(ValueError, match="GridMaps are drawn on their photo"):
        figure(None, make_maps(["a"]))


def test_maps_of_another_photo_are_refused():
    with pytest.raises(ValueError, match="90x60"):
        figure(make_photo((90, 60)), make_maps(["a"], (60, 90)))
    with pytest.raises(ValueError, match="2 words"):
        animation(make_photo(), GridMaps(("a", "b"), np.ones((1, 4, 5)), (90, 60), (0, 0, 90, 60)))
    with pytest.raises(ValueError, match="finite"):
        figure(make_photo(), GridMaps(("a",), np.full((1, 4, 5), np.nan), (90, 60), (0, 0, 90, 60)))


@pytest.mark.parametrize("text", ["short", "x" * 80, "кошка " * 20, "", "猫" * 50])
def test_fitted_text_fits(text):
    fitted, size = fit(text, 18, width=120, smallest=12)
    assert 12 <= size <= 18
    assert text_width(fitted, size) <= 120
    assert fitted == text or fitted.endswith("...")


def test_wrapped_lines_hold_all_words_and_fit():
    words = ["a", "group", "of", "twenty", "people", "in", "colourful", "clothing", "are", "walking"]
    lines = wrap(words, 18, width=150, space=text_width(" ", 18))
    assert [word for line in lines for word in line] == words
    assert all(text_width(" ".join(line), 18) <= 150 for line in lines)
    assert len(lines) < len(words)
