"""Words on pictures: fonts that cover the words' script, lines that fit their place."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import matplotlib
from PIL import ImageFont
from PIL.ImageFont import FreeTypeFont

ELLIPSIS = "..."


def printable(text: str) -> str:
    """The text on one line, without what cannot be drawn (control characters, broken surrogates)."""
    return "".join(c if c.isprintable() else "\ufffd" for c in " ".join(text.split()))


@cache
def _font(size: int, plain: bool) -> FreeTypeFont | ImageFont.ImageFont:
    if plain:
        return ImageFont.load_default(size)
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    return ImageFont.truetype(str(path), size)


def font_for(text: str, size: int) -> FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font for ASCII, which is all it has; DejaVu Sans (it comes with matplotlib) for the rest.

    Characters that neither has are drawn as boxes.
    """
    return _font(size, plain=text.isascii())


def text_width(text: str, size: int) -> float:
    """The width of a printable text in pixels."""
    return font_for(text, size).getlength(text)


def fit(text: str, size: int, width: float, smallest: int) -> tuple[str, int]:
    """A text and a font size that fit into a width: smaller first, then cut.

    Args:
        text: one printable line.
        size: the font size wished for.
        width: the room there is, in pixels.
        smallest: the font size below which the text is cut instead.
    """
    while size > smallest and text_width(text, size) > width:
        size -= 1
    if text_width(text, size) <= width:
        return text, size
    while text and text_width(text + ELLIPSIS, size) > width:
        text = text[:-1]
    return text + ELLIPSIS, size


def wrap(words: list[str], size: int, width: float, space: float) -> list[list[str]]:
    """Words to lines no wider than `width`; a word that is wider by itself has a line of its own.

    Args:
        words: printable words.
        size: their font size.
        width: the room there is, in pixels.
        space: pixels between words.
    """
    lines: list[list[str]] = []
    room = 0.0  # left in the last line
    for word in words:
        advance = space + text_width(word, size)
        if not lines or advance > room:
            lines.append([])
            room = width + space
        lines[-1].append(word)
        room -= advance
    return lines
