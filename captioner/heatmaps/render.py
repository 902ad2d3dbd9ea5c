"""Attention as a figure: the photo, then one panel a word."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageDraw

from captioner.heatmaps.project import peak, project
from captioner.heatmaps.text import fit, font_for, printable, text_width, wrap
from captioner.types import AttentionMaps

PAPER = (255, 255, 255)
INK = (28, 28, 32)
FAINT = (134, 136, 144)

HEAT = np.array(  # black, violet, red, orange, pale yellow: lightness rises evenly
    [
        (0, 0, 4),
        (40, 11, 84),
        (101, 21, 110),
        (159, 42, 99),
        (212, 72, 66),
        (245, 125, 21),
        (250, 193, 39),
        (252, 255, 164),
    ],
    dtype=np.float32,
)

MOST_STRETCHED = 4
"""Panels keep the photo's shape and their area, until a side is this many times a square panel's."""


def check(photo: Image.Image, maps: AttentionMaps) -> None:
    """Refuse maps that do not belong to the photo or are damaged.

    Raises:
        ValueError: where sizes disagree or a weight is not a finite number.
    """
    if photo.size != tuple(maps.image_size):
        raise ValueError(
            f"the photo is {photo.size[0]}x{photo.size[1]} but the maps are of {tuple(maps.image_size)}; "
            "draw them on the upright photo at its full size"
        )
    if maps.alpha.ndim != 3 or len(maps.alpha) != len(maps.words):
        raise ValueError(f"alpha has shape {maps.alpha.shape}; {len(maps.words)} words need ({len(maps.words)}, h, w)")
    if not np.isfinite(maps.alpha).all():
        raise ValueError("alpha holds weights that are not finite numbers; the model's weights may be broken")


def drawn_size(photo: Image.Image, side: int) -> tuple[int, int]:
    """The size (width, height) at which to draw a photo: its own shape, the area of a square of `side`."""
    shape = math.sqrt(photo.width / photo.height)
    shape = min(max(shape, 1 / MOST_STRETCHED), MOST_STRETCHED)  # very long photos: the long side decides
    if photo.width >= photo.height:
        width = side * shape
        return round(width), max(1, round(width * photo.height / photo.width))
    height = side / shape
    return max(1, round(height * photo.width / photo.height)), round(height)


def resized(photo: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The photo in RGB at a size for drawing; photos of tens of megapixels are reduced cheaply first."""
    return photo.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0).convert("RGB")


def heat_panels(picture: Image.Image, maps: AttentionMaps, smooth: bool, shared_scale: bool) -> list[Image.Image]:
    """One picture a word: the photo in dark grey, glowing where the model looked.

    What lies outside the grid's box, which the model never saw, is darker still.

    Args:
        picture: the photo at drawing size.
        maps: T maps of the photo at its own size.
        smooth: see `project`.
        shared_scale: the brightest colour is the highest weight of all maps, so that panels can be compared
            with one another; otherwise of each map alone, as in the paper, so that each map can be read.
    """
    scale_x, scale_y = (drawn / own for drawn, own in zip(picture.size, maps.image_size, strict=True))
    x0, y0, x1, y1 = maps.grid_box
    box = (x0 * scale_x, y0 * scale_y, x1 * scale_x, y1 * scale_y)
    peaks = [peak(alpha, smooth) for alpha in maps.alpha]
    if shared_scale:
        peaks = [max(peaks, default=0)] * len(peaks)
    seen = project(np.ones(maps.alpha.shape[1:]), box, picture.size, smooth=False)
    panels = []
    for alpha, most in zip(maps.alpha, peaks, strict=True):
        weight = project(alpha, box, picture.size, smooth)
        panels.append(_heated(picture, weight / most if most > 0 else weight, seen))
    return panels


def _heated(picture: Image.Image, weight: np.ndarray, seen: np.ndarray) -> Image.Image:
    """The picture under a weight (H, W) from 0 to 1; details stay visible where it is hot."""
    weight = weight.clip(0, 1)
    grey = np.asarray(picture.convert("L"), dtype=np.float32)[..., None] / 255  # (H, W, 1)
    stops = np.linspace(0, 1, len(HEAT))
    heat = np.stack([np.interp(weight, stops, channel) for channel in HEAT.T], axis=-1)  # (H, W, 3)
    opacity = weight[..., None] ** 0.6  # so that the weak weights show too
    cold = grey * (60 + 90 * seen[..., None])
    pixels = (1 - opacity) * cold + opacity * heat * (0.68 + 0.32 * grey)
    return Image.fromarray(pixels.round().astype(np.uint8))


def figure(
    photo: Image.Image,
    maps: AttentionMaps,
    caption: str | None = None,
    smooth: bool = True,
    shared_scale: bool = False,
    side: int = 256,
) -> Image.Image:
    """The photo, then one panel a word, with the caption above, as in the paper's figures.

    Args:
        photo: the upright photo, RGB.
        maps: where the model looked in it; with no words the figure is the photo alone.
        caption: the title; the words of the maps where None.
        smooth: Gaussian upsampling of the maps, or the grid's cells as they are.
        shared_scale: one scale of colours for all panels instead of one for each (see `heat_panels`).
        side: panels have the area of a square of this many pixels.

    Returns:
        an RGB picture.

    Raises:
        ValueError: for maps that are not of this photo.
    """
    check(photo, maps)
    picture = resized(photo, drawn_size(photo, side))
    panels = [picture, *heat_panels(picture, maps, smooth, shared_scale)]
    labels = ["", *(printable(word) for word in maps.words)]
    unit = side / 256
    gap, margin, label_height = round(14 * unit), round(24 * unit), round(28 * unit)
    column = max(picture.width, round(96 * unit))  # very narrow photos leave room for their word
    row = label_height + picture.height
    num_columns = _num_columns(len(panels), column + gap, row + gap)
    num_rows = math.ceil(len(panels) / num_columns)

    title_size = round(25 * unit)
    title = printable(" ".join(maps.words) if caption is None else caption)
    width = max(2 * margin + num_columns * (column + gap) - gap, round(420 * unit) if title else 0)
    lines = wrap(title.split(), title_size, width - 2 * margin, text_width(" ", title_size))
    line_height = round(title_size * 1.35)
    top = margin + (len(lines) * line_height + round(6 * unit) if lines else 0)
    if not maps.words:
        top -= label_height  # no labels, no room for them
    canvas = Image.new("RGB", (width, top + num_rows * (row + gap) - gap + margin), PAPER)
    draw = ImageDraw.Draw(canvas)
    for i, line in enumerate(lines):
        draw_text(draw, (margin, margin + i * line_height), " ".join(line), title_size, width - 2 * margin)
    for i, (panel, label) in enumerate(zip(panels, labels, strict=True)):
        x = margin + i % num_columns * (column + gap)
        y = top + i // num_columns * (row + gap)
        draw_text(draw, (x, y + round(3 * unit)), label, round(18 * unit), column)
        canvas.paste(panel, (x, y + label_height))
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


def _num_columns(num_panels: int, column: int, row: int) -> int:
    """The layout nearest to a page of 17 by 10 that leaves few places empty."""

    def badness(num_columns: int) -> float:
        num_rows = math.ceil(num_panels / num_columns)
        shape = num_columns * column / (num_rows * row)
        empty = num_columns * num_rows / num_panels - 1
        return abs(math.log(shape / 1.7)) + 2 * empty

    return min(range(1, num_panels + 1), key=badness)
