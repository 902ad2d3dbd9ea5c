"""The pieces of a page: pictures that are put above and beside one another."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import Image, ImageDraw

from captioner.heatmaps.text import fit, font_for, printable, text_width, wrap

PAPER = (255, 255, 255)
INK = (28, 28, 32)
FAINT = (134, 136, 144)
TRACK = (226, 227, 231)
SENTINEL = (70, 118, 170)  # blue, which no heat has
Align = float
"""Where a smaller piece stands: 0 at the left or top, 0.5 in the middle, 1 at the right or bottom."""


def blank(width: float, height: float) -> Image.Image:
    """An empty piece."""
    return Image.new("RGB", (max(1, round(width)), max(1, round(height))), PAPER)


def stacked(pieces: Sequence[Image.Image], gap: int = 0, align: Align = 0) -> Image.Image:
    """Pieces one above the other."""
    canvas = blank(max(piece.width for piece in pieces), sum(piece.height + gap for piece in pieces) - gap)
    y = 0
    for piece in pieces:
        canvas.paste(piece, (round(align * (canvas.width - piece.width)), y))
        y += piece.height + gap
    return canvas


def beside(pieces: Sequence[Image.Image], gap: int = 0, align: Align = 0) -> Image.Image:
    """Pieces side by side."""
    canvas = blank(sum(piece.width + gap for piece in pieces) - gap, max(piece.height for piece in pieces))
    x = 0
    for piece in pieces:
        canvas.paste(piece, (x, round(align * (canvas.height - piece.height))))
        x += piece.width + gap
    return canvas


def flowing(pieces: Sequence[Image.Image], gap: int) -> Image.Image:
    """Pieces of about one size in rows, on an area near a page's shape that has few places empty."""
    width, height = max(piece.width for piece in pieces), max(piece.height for piece in pieces)
    num_columns = _num_columns(len(pieces), width + gap, height + gap)
    rows = [pieces[start : start + num_columns] for start in range(0, len(pieces), num_columns)]
    return stacked([beside(row, gap) for row in rows], gap)


def page(pieces: Sequence[Image.Image], margin: int, gap: int) -> Image.Image:
    """Pieces one above the other, with a margin around."""
    body = stacked(pieces, gap)
    canvas = blank(body.width + 2 * margin, body.height + 2 * margin)
    canvas.paste(body, (margin, margin))
    return canvas


def draw_text(
    draw: ImageDraw.ImageDraw,
    place: tuple[float, float],
    text: str,
    size: int,
    width: float,
    colour: tuple[int, int, int] = INK,
) -> None:
    """Draw one printable line with its baseline at a size's usual height, made to fit into `width` pixels."""
    text, fitted = fit(text, size, width, smallest=max(9, size * 2 // 3))
    x, y = place
    draw.text((x, y + size), text, fill=colour, font=font_for(text, fitted), anchor="ls")


def line(text: str, size: int, width: float, colour: tuple[int, int, int] = INK, align: Align = 0) -> Image.Image:
    """One line of text in a piece of its own, made to fit into `width` pixels."""
    text, size_of_text = fit(printable(text), size, width, smallest=max(9, size * 2 // 3))
    piece = blank(width, round(size * 1.4))
    x = align * (width - text_width(text, size_of_text))
    ImageDraw.Draw(piece).text((x, size), text, fill=colour, font=font_for(text, size_of_text), anchor="ls")
    return piece


def paragraph(text: str, size: int, width: float) -> Image.Image:
    """A text on as many lines as it needs; a word that is wider than `width` is cut."""
    lines = wrap(printable(text).split(), size, width, text_width(" ", size))
    return stacked([line(" ".join(words), size, width) for words in lines])


def scale(strip: Image.Image, highest: float | None, size: int) -> Image.Image:
    """What the colours mean: from 0 to a weight.

    Args:
        strip: the colours from left to right.
        highest: the weight of the last one; None where each panel has a scale of its own.
        size: of the text.
    """
    most = "max" if highest is None else f"{highest:.2g}"
    pieces = [_label("weight  0", size), strip, _label(most, size)]
    if highest is None:
        pieces.append(_label("  each panel on its own scale", size))
    return beside(pieces, gap=round(size * 0.6), align=0.5)


def sentinel_bar(weight: float, size: int, width: int) -> Image.Image:
    """The weight of a sentinel, from 0 to 1, as a number and a bar."""
    number = _label(f"{weight:.2f}", size)
    words = line("sentinel", size, max(1, width - number.width), FAINT)
    track = Image.new("RGB", (width, max(2, size // 4)), TRACK)
    track.paste(SENTINEL, (0, 0, round(width * min(max(weight, 0), 1)), track.height))
    return stacked([beside([words, number]), track])


def _label(text: str, size: int) -> Image.Image:
    return line(text, size, math.ceil(text_width(text, size)), FAINT)


def _num_columns(num_pieces: int, column: int, row: int) -> int:
    """The layout nearest to a page of 17 by 10 that leaves few places empty."""

    def badness(num_columns: int) -> float:
        num_rows = math.ceil(num_pieces / num_columns)
        shape = num_columns * column / (num_rows * row)
        empty = num_columns * num_rows / num_pieces - 1
        return abs(math.log(shape / 1.7)) + 2 * empty

    return min(range(1, num_pieces + 1), key=badness)
