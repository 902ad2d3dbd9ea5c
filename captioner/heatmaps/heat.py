"""A photo that glows where the model looked: one panel a word, for the maps of a grid and of regions alike."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import numpy as np
from PIL import Image, ImageDraw

from captioner.heatmaps.layout import INK, PAPER
from captioner.heatmaps.project import Box, peak, project, project_regions
from captioner.heatmaps.text import font_for
from captioner.types import AttentionMaps, GridMaps, RegionMaps

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

MARKED_BOXES = 3
"""Of the regions, at most so many are outlined: the heaviest, and those with at least half of its weight."""

ROOM_FOR_TAGS = 160 * 160
"""On panels of fewer pixels the heaviest box alone has its weight written."""


def drawn_size(photo: Image.Image, side: int) -> tuple[int, int]:
    """The size (width, height) at which to draw a photo: its own shape, the area of a square of `side`.

    Photos more than 16 times as long as wide would be strips: they are drawn wider than they are.
    """
    shape = math.sqrt(photo.width / photo.height)
    shape = min(max(shape, 1 / MOST_STRETCHED), MOST_STRETCHED)
    return round(side * shape), round(side / shape)


def resized(photo: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The photo in RGB at a size for drawing; photos of tens of megapixels are reduced cheaply first."""
    return photo.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0).convert("RGB")


def colours(weight: np.ndarray) -> np.ndarray:
    """The colours of weights from 0 to 1: (...) to (..., 3) float."""
    stops = np.linspace(0, 1, len(HEAT))
    return np.stack([np.interp(weight, stops, channel) for channel in HEAT.T], axis=-1)


def heated(picture: Image.Image, weight: np.ndarray, seen: np.ndarray) -> Image.Image:
    """A picture in dark grey, glowing under a weight; details stay visible where it is hot.

    Args:
        picture: H rows and W columns of pixels.
        weight: (H, W) from 0 to 1.
        seen: (H, W) 1 where the model saw the picture; the rest is darker still.
    """
    weight = weight.clip(0, 1)
    grey = np.asarray(picture.convert("L"), dtype=np.float32)[..., None] / 255  # (H, W, 1)
    opacity = weight[..., None] ** 0.6  # so that the weak weights show too
    cold = grey * (60 + 90 * seen[..., None])
    pixels = (1 - opacity) * cold + opacity * colours(weight) * (0.68 + 0.32 * grey)  # (H, W, 3)
    return Image.fromarray(pixels.round().astype(np.uint8))


class Heat(ABC):
    """How one kind of maps lies on a photo that is drawn at some size."""

    @abstractmethod
    def weight(self, alpha: np.ndarray) -> np.ndarray:
        """What each pixel carries of one word's weights: (height, width)."""

    @abstractmethod
    def highest(self, alpha: np.ndarray) -> float:
        """The highest weight that a pixel can carry of one word's weights."""

    @abstractmethod
    def seen(self) -> np.ndarray:
        """Which pixels the model saw: (height, width) from 0 to 1."""

    @abstractmethod
    def mark(self, panel: Image.Image, alpha: np.ndarray) -> None:
        """Draw on a word's panel what the heat alone does not say."""

    @abstractmethod
    def mark_all(self, picture: Image.Image) -> None:
        """Draw on the photo itself what the model could look at."""


class GridHeat(Heat):
    """The heat of a grid's cells.

    Args:
        maps: of the photo at its own size.
        size: (width, height) of the drawn photo.
        smooth: see `project`.
    """

    def __init__(self, maps: GridMaps, size: tuple[int, int], smooth: bool) -> None:
        x0, y0, x1, y1 = maps.grid_box
        scale_x, scale_y = _scale(maps.image_size, size)
        self.size = size
        self.smooth = smooth
        self.box = (x0 * scale_x, y0 * scale_y, x1 * scale_x, y1 * scale_y)

    def weight(self, alpha: np.ndarray) -> np.ndarray:
        """The cells' weights, projected."""
        return project(alpha, self.box, self.size, self.smooth)

    def highest(self, alpha: np.ndarray) -> float:
        """The highest in the whole grid, also where it reaches past the photo."""
        return peak(alpha, self.smooth)

    def seen(self) -> np.ndarray:
        """What the grid covers."""
        return project(np.ones((1, 1)), self.box, self.size, smooth=False)

    def mark(self, panel: Image.Image, alpha: np.ndarray) -> None:
        """Nothing: the heat says it all."""

    def mark_all(self, picture: Image.Image) -> None:
        """Nothing: the photo stays as it is."""


class RegionHeat(Heat):
    """The heat of regions: a pixel glows with all boxes that cover it, and the heaviest boxes are outlined.

    Args:
        maps: of the photo at its own size.
        size: (width, height) of the drawn photo.
    """

    def __init__(self, maps: RegionMaps, size: tuple[int, int]) -> None:
        self.size = size
        self.boxes = maps.boxes * np.tile(_scale(maps.image_size, size), 2)  # (R, 4)

    def weight(self, alpha: np.ndarray) -> np.ndarray:
        """The boxes' weights, added up."""
        return project_regions(alpha, self.boxes, self.size)

    def highest(self, alpha: np.ndarray) -> float:
        """The highest among the pixels of the photo."""
        return float(self.weight(alpha).max())

    def seen(self) -> np.ndarray:
        """All of it: a detector looks everywhere."""
        return np.ones(self.size[::-1], dtype=np.float32)

    def mark(self, panel: Image.Image, alpha: np.ndarray) -> None:
        """Outline the heaviest boxes, with their weights."""
        order = np.argsort(-alpha, kind="stable")[:MARKED_BOXES]
        heavy = [i for i in order if alpha[i] > 0 and alpha[i] >= alpha[order[0]] / 2]
        draw = ImageDraw.Draw(panel)
        for i in heavy[::-1]:  # the heaviest comes last, over the others
            _outline(draw, self.boxes[i], self.size, width=2 if i == order[0] else 1)
        taken: list[Box] = []
        room = self.size[0] * self.size[1] >= ROOM_FOR_TAGS
        for i in heavy if room else heavy[:1]:
            _tag(draw, self.boxes[i], f"{alpha[i]:.2f}", self.size, taken)

    def mark_all(self, picture: Image.Image) -> None:
        """Outline all boxes, lightly."""
        overlay = picture.copy()
        draw = ImageDraw.Draw(overlay)
        for inset, colour in ((1, INK), (0, PAPER)):  # a shadow, for pale photos
            for x0, y0, x1, y1 in self.boxes.round().tolist():
                if x1 - x0 > 2 * inset and y1 - y0 > 2 * inset:
                    draw.rectangle((x0 + inset, y0 + inset, x1 - 1 - inset, y1 - 1 - inset), outline=colour)
        picture.paste(Image.blend(picture, overlay, 0.6))


def heat_of(maps: AttentionMaps, size: tuple[int, int], smooth: bool) -> Heat:
    """How maps lie on their photo at a size (width, height); `smooth` is for grids, boxes have edges.

    Raises:
        ValueError: for the maps of a sentence.
    """
    match maps:
        case GridMaps():
            return GridHeat(maps, size, smooth)
        case RegionMaps():
            return RegionHeat(maps, size)
        case _:
            raise ValueError(
                f"{type(maps).__name__} cannot be drawn on a photo; use `figure` for the maps of a sentence"
            )


def highest_weight(maps: AttentionMaps, size: tuple[int, int], smooth: bool) -> float:
    """The highest weight that a pixel can carry for any word, on a photo drawn at a size; 0 without words."""
    heat = heat_of(maps, size, smooth)
    return max((heat.highest(alpha) for alpha in maps.alpha), default=0.0)


def heat_panels(
    picture: Image.Image, maps: AttentionMaps, smooth: bool, highest: float | None = None
) -> list[Image.Image]:
    """One picture a word: the photo in dark grey, glowing where the model looked.

    What lies outside the grid's box, which the model never saw, is darker still. Of regions the heaviest are
    outlined, with their weights.

    Args:
        picture: the photo at drawing size.
        maps: T maps of the photo at its own size.
        smooth: see `project`.
        highest: the weight of the brightest colour, so that panels can be compared with one another; where None the
            highest of each map alone, as in the paper, so that each map can be read.
    """
    heat = heat_of(maps, picture.size, smooth)
    seen = heat.seen()
    panels = []
    for alpha in maps.alpha:
        weight = heat.weight(alpha)
        most = heat.highest(alpha) if highest is None else highest
        panel = heated(picture, weight / most if most > 0 else weight, seen)
        heat.mark(panel, alpha)
        panels.append(panel)
    return panels


def _scale(image_size: tuple[int, int], size: tuple[int, int]) -> tuple[float, float]:
    """What to multiply x and y with to come from the photo's own pixels to the drawn ones."""
    return size[0] / image_size[0], size[1] / image_size[1]


def _outline(draw: ImageDraw.ImageDraw, box: np.ndarray, size: tuple[int, int], width: int) -> None:
    """A white frame between dark ones, which shows on bright and on dark; within the picture."""
    x0, y0 = (max(1, round(float(edge))) for edge in box[:2])
    x1, y1 = (min(most - 1, round(float(edge))) - 1 for edge, most in zip(box[2:], size, strict=True))
    if x1 - x0 < 1 or y1 - y0 < 1:
        return
    draw.rectangle((x0 - 1, y0 - 1, x1 + 1, y1 + 1), outline=INK)
    if min(x1 - x0, y1 - y0) > 2 * width + 2:
        draw.rectangle((x0 + width, y0 + width, x1 - width, y1 - width), outline=INK)
    draw.rectangle((x0, y0, x1, y1), outline=PAPER, width=width)


def _tag(draw: ImageDraw.ImageDraw, box: np.ndarray, text: str, size: tuple[int, int], taken: list[Box]) -> None:
    """A box's weight above it or, where the picture ends, below or on it; left out where another tag stands already."""
    points = round(min(15, max(10, math.sqrt(size[0] * size[1]) / 19)))
    font = font_for(text, points)
    width, height = math.ceil(font.getlength(text)) + 6, points + 3
    x = min(max(round(float(box[0])), 0), max(size[0] - width - 1, 0))
    above, below = round(float(box[1])) - height - 1, round(float(box[3])) + 1
    y = above if above >= 0 else below if below + height < size[1] else 0
    if any(x <= x1 and x0 <= x + width and y <= y1 and y0 <= y + height for x0, y0, x1, y1 in taken):
        return
    taken.append((x, y, x + width, y + height))
    draw.rectangle((x, y, x + width, y + height), fill=PAPER)
    draw.text((x + 3, y + height / 2), text, fill=INK, font=font, anchor="lm")
