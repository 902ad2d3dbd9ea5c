"""Text fits into what there is for it."""

from __future__ import annotations

import numpy as np
import pytest
from figure_cases import gif_of, make_maps
from PIL import Image

from captioner.heatmaps import animation, figure
from captioner.heatmaps.text import fit, text_width, wrap

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


@pytest.mark.parametrize("word", ODD_WORDS)
def test_words_that_a_font_lacks_do_no_harm(word):
    maps = make_maps([word, word])
    figure(make_photo(), maps, caption=f"{word} {word}", side=64)
    assert gif_of(animation(make_photo(), maps, side=64)).n_frames == 2


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
