"""Animations: a frame for each word."""

from __future__ import annotations

import numpy as np
import pytest
from figure_cases import gif_of, make_maps
from PIL import Image, ImageSequence

from captioner.heatmaps import animation


def make_photo(size: tuple[int, int] = (90, 60)) -> Image.Image:
    pixels = np.random.default_rng(1).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


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
