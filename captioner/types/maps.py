"""Where a model looked, as those who draw or measure it need it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class AttentionMaps:
    """Where a model looked, word by word, in one part of its memory; one of the three kinds below.

    Attributes:
        words: T words, the end word left out.
        alpha: (T, ...) float32 weights of the part's locations.
        heads: (T, N, ...) float32 weights of each of N heads, where there are several; `alpha` is their mean.
        head_names: the names of the N heads ("layer 2, head 1").
        sentinel: (T,) float32 weight of the sentinel, where there is one: how little the word needed the memory.
    """

    words: tuple[str, ...]
    alpha: np.ndarray
    heads: np.ndarray | None = field(default=None, kw_only=True)
    head_names: tuple[str, ...] = field(default=(), kw_only=True)
    sentinel: np.ndarray | None = field(default=None, kw_only=True)


@dataclass(frozen=True)
class GridMaps(AttentionMaps):
    """Where a model looked in a photo's grid: `alpha` (T, h, w), `heads` (T, N, h, w).

    Attributes:
        image_size: (width, height) of the upright photo in pixels.
        grid_box: (x0, y0, x1, y1) the rectangle, in pixels of the upright photo, that the grid covers;
            it reaches past the photo's edges where the photo was padded.
    """

    image_size: tuple[int, int]
    grid_box: tuple[float, float, float, float]


@dataclass(frozen=True)
class RegionMaps(AttentionMaps):
    """Where a model looked among a photo's regions: `alpha` (T, R), `heads` (T, N, R).

    Attributes:
        image_size: (width, height) of the upright photo in pixels.
        boxes: (R, 4) float32 x0, y0, x1, y1 of the regions, in pixels of the upright photo.
        scores: (R,) float32 how sure the detector was of each, 0 to 1; NaN where that is not known.
    """

    image_size: tuple[int, int]
    boxes: np.ndarray
    scores: np.ndarray | None = field(default=None, kw_only=True)


@dataclass(frozen=True)
class WordMaps(AttentionMaps):
    """Where a model looked in a sentence, its alignment: `alpha` (T, S), `heads` (T, N, S).

    Attributes:
        source_words: the S words that were read.
    """

    source_words: tuple[str, ...]
