"""Attention as figures: of one caption, of each of several heads, of several models side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from PIL import Image

from captioner.heatmaps.alignment import cell_size, highest_cell, matrix
from captioner.heatmaps.checks import check
from captioner.heatmaps.heat import colours, drawn_size, heat_of, heat_panels, heated, highest_weight, resized
from captioner.heatmaps.layout import (
    beside,
    blank,
    flowing,
    line,
    page,
    paragraph,
    scale,
    sentinel_bar,
    stacked,
)
from captioner.heatmaps.text import printable, text_width
from captioner.types import AttentionMaps, WordMaps

WIDEST = 1900
"""Captions whose panels would make a row wider than this many pixels go on below."""

NARROWEST_TITLE = 420
GAP = 8


def figure(
    photo: Image.Image | None,
    maps: AttentionMaps,
    caption: str | None = None,
    smooth: bool = True,
    shared_scale: bool = False,
    side: int = 256,
) -> Image.Image:
    """The photo, then one panel a word, with the caption above; for the maps of a sentence, a matrix.

    Where there is a sentinel, a bar over each panel (or beside each row) says how little the word needed the memory.

    Args:
        photo: the upright photo, RGB; None for the maps of a sentence.
        maps: where the model looked; with no words the figure is the photo alone.
        caption: the title; the words of the maps where None.
        smooth: Gaussian upsampling of the maps of a grid, or its cells as they are.
        shared_scale: one scale of colours for all panels instead of one for each (see `heat_panels`); a matrix always
            has one.
        side: panels have the area of a square of this many pixels, a matrix is about two and a half times as wide.

    Returns:
        an RGB picture.

    Raises:
        ValueError: for maps that are not of this photo.
    """
    check(photo, maps)
    unit = side / 256
    highest: float | None
    if isinstance(maps, WordMaps):
        cell = cell_size(maps, side * 5 // 2, smallest=14, largest=round(40 * unit))
        body, highest = matrix(maps, cell), highest_cell(maps)
        gradient = _matrix_gradient(unit)
    else:
        assert photo is not None
        body, highest = _word_panels(photo, maps, smooth, shared_scale, side)
        gradient = _photo_gradient(unit)
    foot = [scale(gradient, highest, round(13 * unit))] if maps.words else []
    return _titled([body, *foot], _title(maps, caption), unit)


def heads_figure(
    photo: Image.Image | None,
    maps: AttentionMaps,
    caption: str | None = None,
    smooth: bool = True,
    shared_scale: bool = False,
) -> Image.Image:
    """What each head looked at: a row of panels for each, or a matrix for the maps of a sentence.

    Args:
        photo: see `figure`.
        maps: maps with their N heads.
        caption: see `figure`.
        smooth: see `figure`.
        shared_scale: see `figure`.

    Raises:
        ValueError: for maps without heads, or of another number of names, or not of this photo.
    """
    check(photo, maps)
    if maps.heads is None or not maps.heads.shape[1]:
        raise ValueError("the maps hold no heads; draw them with `figure`")
    num_heads = maps.heads.shape[1]
    names = maps.head_names or [f"head {i + 1}" for i in range(num_heads)]
    if len(names) != num_heads:
        raise ValueError(f"{len(names)} names for {num_heads} heads; give one for each")
    alone = replace(maps, heads=None, head_names=(), sentinel=None)
    rows = [(name, replace(alone, alpha=maps.heads[:, i])) for i, name in enumerate(names)]
    return _rows_figure(photo, rows, _title(maps, caption), smooth, shared_scale)


def comparison_figure(
    photo: Image.Image | None,
    rows: Sequence[tuple[str, AttentionMaps]],
    caption: str | None = None,
    smooth: bool = True,
    shared_scale: bool = False,
) -> Image.Image:
    """Where several models looked for the same words: a row of panels for each, or a matrix for sentences.

    Args:
        photo: see `figure`.
        rows: the name of each model with its maps.
        caption: see `figure`.
        smooth: see `figure`.
        shared_scale: see `figure`; to be used where the memories are the same, for a small cell holds less.

    Raises:
        ValueError: for maps of different words, of sentences beside photos, or not of this photo.
    """
    if not rows:
        raise ValueError("there is nothing to compare; give at least one model's maps")
    words = rows[0][1].words
    for name, maps in rows:
        check(photo, maps)
        if maps.words != words:
            raise ValueError(f"{name!r} has the words {maps.words}, {rows[0][0]!r} has {words}; compare the same words")
        if isinstance(maps, WordMaps) != isinstance(rows[0][1], WordMaps):
            raise ValueError(f"{name!r} and {rows[0][0]!r} looked at a sentence and at a photo; compare them apart")
    return _rows_figure(photo, rows, _title(rows[0][1], caption), smooth, shared_scale)


def _title(maps: AttentionMaps, caption: str | None) -> str:
    return printable(" ".join(maps.words) if caption is None else caption)


def _titled(pieces: Sequence[Image.Image], title: str, unit: float) -> Image.Image:
    """A page of pieces under a title, as wide as the widest of them."""
    width = max(round(NARROWEST_TITLE * unit), *(piece.width for piece in pieces))
    return page([*_heading(title, width, unit), *pieces], margin=round(24 * unit), gap=round(14 * unit))


def _heading(title: str, width: int, unit: float) -> list[Image.Image]:
    """The title in large letters, smaller where it would take more than two lines; nothing for an empty one."""
    large = text_width(title, round(25 * unit)) < 2 * width
    return [paragraph(title, round((25 if large else 18) * unit), width)] if title else []


def _word_panels(
    photo: Image.Image, maps: AttentionMaps, smooth: bool, shared_scale: bool, side: int
) -> tuple[Image.Image, float | None]:
    """The photo and one panel a word, and the weight of the brightest colour where that is one for all."""
    unit = side / 256
    picture = resized(photo, drawn_size(photo, side))
    shared = shared_scale or len(maps.words) == 1
    highest = highest_weight(maps, picture.size, smooth) if shared else None
    panels = heat_panels(picture, maps, smooth, highest)
    heat_of(maps, picture.size, smooth).mark_all(picture)
    if not maps.words:
        return picture, None
    width = max(picture.width, round(96 * unit))  # very narrow photos leave room for their word
    heads = [line(word, round(18 * unit), width) for word in maps.words]
    if maps.sentinel is not None:
        bars = [sentinel_bar(float(weight), round(13 * unit), width) for weight in maps.sentinel]
        heads = [stacked(pair) for pair in zip(heads, bars, strict=True)]
    gap = round(4 * unit)
    cells = [stacked([head, panel], gap) for head, panel in zip(heads, panels, strict=True)]
    original = stacked([blank(width, heads[0].height), picture], gap)
    return flowing([original, *cells], gap=round(16 * unit)), highest


def _rows_figure(
    photo: Image.Image | None,
    rows: Sequence[tuple[str, AttentionMaps]],
    title: str,
    smooth: bool,
    shared_scale: bool,
) -> Image.Image:
    """A page with all rows: of panels on the photo, or one matrix for each."""
    sentences = [(name, maps) for name, maps in rows if isinstance(maps, WordMaps)]
    if sentences:
        body, highest = _matrices(sentences, shared_scale)
        return _titled([body, scale(_matrix_gradient(1), highest, 13)], title, unit=1)
    assert photo is not None
    picture = resized(photo, drawn_size(photo, 120))
    names = [line(name, 15, _widest([name for name, _ in rows], 15, 180), align=1) for name, _ in rows]
    tables, highest = _tables(picture, names, [maps for _, maps in rows], smooth, shared_scale)
    width = max(NARROWEST_TITLE, tables[0].width - names[0].width - picture.width - 2 * GAP)
    original = [blank(names[0].width, 1), picture, *_heading(title, width, unit=1)]
    foot = scale(_photo_gradient(1), highest, 13)
    return page([beside(original, GAP, align=0.5), *tables, foot], margin=24, gap=22)


def _tables(
    picture: Image.Image,
    names: Sequence[Image.Image],
    rows: Sequence[AttentionMaps],
    smooth: bool,
    shared_scale: bool,
) -> tuple[list[Image.Image], float | None]:
    """A table with a row for each of `rows` and a column a word, in as many parts as keep it from being too wide."""
    highest = max(highest_weight(maps, picture.size, smooth) for maps in rows) if shared_scale else None
    width = max(picture.width, 64)
    heads = [line(word, 15, width) for word in rows[0].words]
    cells = [_row_cells(picture, maps, smooth, highest, width) for maps in rows]
    num_parts = max(1, math.ceil(len(heads) * (width + GAP) / WIDEST))
    length = max(1, math.ceil(len(heads) / num_parts))
    tables = []
    for start in range(0, max(1, len(heads)), length):
        part = slice(start, start + length)
        head = beside([blank(names[0].width, 1), *heads[part]], GAP)
        body = [beside([name, *row[part]], GAP, align=0.5) for name, row in zip(names, cells, strict=True)]
        tables.append(stacked([stacked([head, body[0]], gap=2), *body[1:]], GAP))
    return tables, highest


def _widest(texts: Sequence[str], size: int, most: int) -> int:
    """The width in pixels of the widest text, at most `most`."""
    return min(max(math.ceil(text_width(printable(text), size)) for text in texts), most)


def _row_cells(
    picture: Image.Image, maps: AttentionMaps, smooth: bool, highest: float | None, width: int
) -> list[Image.Image]:
    """The panels of one row, under the bars of their sentinel where there is one."""
    cells = [stacked([blank(width, 1), panel]) for panel in heat_panels(picture, maps, smooth, highest)]
    if maps.sentinel is None:
        return cells
    bars = [sentinel_bar(float(weight), 11, width) for weight in maps.sentinel]
    return [stacked(pair, gap=3) for pair in zip(bars, cells, strict=True)]


def _matrices(rows: Sequence[tuple[str, WordMaps]], shared_scale: bool) -> tuple[Image.Image, float | None]:
    """One matrix for each row, under its name, and the weight of the brightest colour where that is one for all."""
    highest = max(highest_cell(maps) for _, maps in rows) if shared_scale or len(rows) == 1 else None
    pieces = []
    for name, maps in rows:
        picture = matrix(maps, cell_size(maps, side=260, smallest=4, largest=24), highest)
        pieces.append(stacked([line(name, 15, max(picture.width, 64)), picture], gap=4))
    return flowing(pieces, gap=24), highest


def _photo_gradient(unit: float) -> Image.Image:
    """The colours of a panel, from 0 to its brightest, on a grey photo."""
    weight = _ramp(unit)
    return heated(Image.new("RGB", weight.shape[::-1], (128, 128, 128)), weight, np.ones_like(weight))


def _matrix_gradient(unit: float) -> Image.Image:
    """The colours of a matrix, from 0 to its brightest."""
    return Image.fromarray(colours(_ramp(unit)).round().astype(np.uint8))


def _ramp(unit: float) -> np.ndarray:
    """Weights from 0 at the left to 1 at the right, in the size of a page's scale: (H, W)."""
    return np.tile(np.linspace(0, 1, round(120 * unit)), (max(3, round(10 * unit)), 1))
