"""The attention of words to words as a matrix: a row for each word written, a column for each word read."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageDraw

from captioner.heatmaps.heat import colours
from captioner.heatmaps.layout import FAINT, INK, SENTINEL, TRACK, beside, blank, line, stacked
from captioner.heatmaps.text import fit, font_for, printable, text_width
from captioner.types import WordMaps

SMALLEST_LABELLED = 13
"""Cells of fewer pixels have no room for words at their side."""

LONGEST_LABEL = 170
"""Words are cut to this many pixels."""

RULE = (44, 40, 56)
"""Between cells: just lighter than a cell without weight."""


def cell_size(maps: WordMaps, side: int, smallest: int, largest: int) -> int:
    """How many pixels wide cells are for a matrix of about `side` pixels."""
    return min(max(side // max(len(maps.words), len(maps.source_words), 1), smallest), largest)


def matrix(maps: WordMaps, cell: int, highest: float | None = None) -> Image.Image:
    """The weights as squares of `cell` pixels, with the words at their sides where these are large enough.

    The weight of a sentinel is a bar at the right of its row.

    Args:
        maps: T words that were written from S words.
        cell: the side of a square in pixels.
        highest: the weight of the brightest colour; the highest of these maps where None.
    """
    most = highest_cell(maps) if highest is None else highest
    squares = _squares(maps.alpha, most, cell)
    labelled = cell >= SMALLEST_LABELLED
    size = min(max(round(cell * 0.72), 11), 16)
    pieces = [stacked([_column_labels(maps.source_words, cell, size), squares], gap=5) if labelled else squares]
    if maps.sentinel is not None:
        bars = _sentinel_bars(maps.sentinel, cell, size, labelled)
        name = line("sentinel", size, bars.width, FAINT)
        pieces.append(stacked([name, bars], gap=5) if labelled else bars)
    body = beside(pieces, gap=cell // 2 + 4, align=1)
    return beside([_row_labels(maps.words, cell, size), body], gap=7, align=1) if labelled else body


def highest_cell(maps: WordMaps) -> float:
    """The highest weight in the matrix; 0 for an empty one."""
    return float(maps.alpha.max(initial=0))


def _squares(weights: np.ndarray, most: float, cell: int) -> Image.Image:
    """(T, S) weights as squares, with a thin rule between those that are large enough for one."""
    if not weights.size:
        return blank(max(1, weights.shape[1] * cell), 1)
    shares = weights / most if most > 0 else weights
    pixels = colours(shares).round().astype(np.uint8)  # (T, S, 3)
    pixels = pixels.repeat(cell, axis=0).repeat(cell, axis=1)  # (T * cell, S * cell, 3)
    if cell >= 8:
        pixels[cell::cell] = RULE
        pixels[:, cell::cell] = RULE
    return Image.fromarray(pixels)


def _row_labels(words: tuple[str, ...], cell: int, size: int) -> Image.Image:
    """The words under one another, each against the right edge and in the middle of its row."""
    width = min(max((math.ceil(text_width(printable(word), size)) for word in words), default=1), LONGEST_LABEL)
    piece = blank(width, len(words) * cell)
    draw = ImageDraw.Draw(piece)
    for row, word in enumerate(words):
        text, fitted = fit(printable(word), size, width, smallest=10)
        draw.text((width, (row + 0.68) * cell), text, fill=INK, font=font_for(text, fitted), anchor="rs")
    return piece


def _column_labels(words: tuple[str, ...], cell: int, size: int) -> Image.Image:
    """The words beside one another over their columns: as one reads, or from below upwards where they are long."""
    widths = [math.ceil(text_width(printable(word), size)) for word in words]
    if max(widths) <= cell - 4:
        return beside([line(word, size, cell, align=0.5) for word in words])
    length = min(max(widths), LONGEST_LABEL)
    piece = blank(length, len(words) * cell)
    draw = ImageDraw.Draw(piece)
    for column, word in enumerate(words):
        text, fitted = fit(printable(word), size, length, smallest=10)
        draw.text((0, (column + 0.68) * cell), text, fill=INK, font=font_for(text, fitted), anchor="ls")
    return piece.transpose(Image.Transpose.ROTATE_90)


def _sentinel_bars(weights: np.ndarray, cell: int, size: int, labelled: bool) -> Image.Image:
    """A bar from 0 to 1 for each row, with its number where there is room for words."""
    length, thickness = 4 * size, max(2, cell // 3)
    piece = blank(length + (math.ceil(text_width(" 0.00", size)) if labelled else 0), len(weights) * cell)
    draw = ImageDraw.Draw(piece)
    for row, weight in enumerate(weights):
        y = row * cell + (cell - thickness) // 2
        piece.paste(TRACK, (0, y, length, y + thickness))
        piece.paste(SENTINEL, (0, y, round(length * min(max(float(weight), 0), 1)), y + thickness))
        if labelled:
            number = f"{weight:.2f}"
            draw.text((piece.width, (row + 0.68) * cell), number, FAINT, font_for(number, size), anchor="rs")
    return piece
