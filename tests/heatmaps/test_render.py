"""Figures and animations: every word is there, the heat lies where the weight is, nothing crashes."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageSequence

from captioner.heatmaps import animation, figure, save_gif
from captioner.heatmaps.render import drawn_size, heat_panels
from captioner.heatmaps.text import fit, text_width, wrap
from captioner.types import AttentionMaps

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


def make_maps(words: list[str], size: tuple[int, int] = (90, 60), same: bool = False) -> AttentionMaps:
    alpha = np.random.default_rng(2).dirichlet(np.ones(20), len(words)).reshape(-1, 4, 5).astype(np.float32)
    if same and words:
        alpha[:] = alpha[0]
    return AttentionMaps(tuple(words), alpha, size, (0, 0, *size))


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
    maps = AttentionMaps(("cell",), alpha, size, box)
    picture = Image.new("RGB", drawn_size(Image.new("RGB", size), 200), (128, 128, 128))
    (panel,) = heat_panels(picture, maps, smooth, shared_scale=False)
    red = np.asarray(panel)[..., 0].astype(float)
    y, x = (np.argwhere(red > 0.98 * red.max()).mean(axis=0) + 0.5) / red.shape * size[::-1]
    x0, y0, x1, y1 = box
    column, row = (x - x0) / (x1 - x0) * 5, (y - y0) / (y1 - y0) * 4
    assert 3 <= column <= 4
    assert 1 <= row <= 2


def test_panels_have_their_own_scale_or_share_one():
    alpha = np.zeros((2, 4, 5), dtype=np.float32)
    alpha[:, 1, 1] = 0.9, 0.3
    maps = AttentionMaps(("sure", "unsure"), alpha, (90, 60), (0, 0, 90, 60))
    picture = Image.new("RGB", (90, 60), (128, 128, 128))
    sure, unsure = heat_panels(picture, maps, smooth=True, shared_scale=False)
    assert sure.tobytes() == unsure.tobytes()
    sure, unsure = heat_panels(picture, maps, smooth=True, shared_scale=True)
    assert np.asarray(unsure).max() < 0.8 * np.asarray(sure).max()


def test_a_map_without_weight_is_drawn_cold():
    maps = AttentionMaps(("none",), np.zeros((1, 4, 5), dtype=np.float32), (90, 60), (0, 0, 90, 60))
    (panel,) = heat_panels(make_photo(), maps, smooth=True, shared_scale=False)
    pixels = np.asarray(panel).astype(int)
    assert (pixels.max(axis=-1) - pixels.min(axis=-1)).max() == 0


def test_what_the_model_never_saw_is_darker():
    maps = AttentionMaps(("x",), np.zeros((1, 4, 5), dtype=np.float32), (90, 60), (15, 0, 75, 60))
    (panel,) = heat_panels(Image.new("RGB", (90, 60), "white"), maps, smooth=True, shared_scale=False)
    values = np.asarray(panel)[30, :, 0].astype(int)
    assert set(values[:15]) == set(values[75:]) == {60}
    assert set(values[15:75]) == {150}


def test_maps_of_another_photo_are_refused():
    with pytest.raises(ValueError, match="90x60"):
        figure(make_photo((90, 60)), make_maps(["a"], (60, 90)))
    with pytest.raises(ValueError, match="2 words"):
        animation(make_photo(), AttentionMaps(("a", "b"), np.ones((1, 4, 5)), (90, 60), (0, 0, 90, 60)))
    with pytest.raises(ValueError, match="finite"):
        figure(make_photo(), AttentionMaps(("a",), np.full((1, 4, 5), np.nan), (90, 60), (0, 0, 90, 60)))


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
