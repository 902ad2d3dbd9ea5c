"""From the weights of all tokens and locations to maps, word by word."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from torch import Tensor

from captioner.types import AttentionMaps, GridMaps, Opened, RegionMaps, Segment, WordMaps


def head_names(num_heads: int, num_layers: int) -> tuple[str, ...]:
    """Names of heads that come layer by layer."""
    each = num_heads // num_layers
    if num_layers == 1:
        return tuple(f"head {head}" for head in range(1, each + 1))
    return tuple(f"layer {layer}, head {head}" for layer in range(1, num_layers + 1) for head in range(1, each + 1))


def per_word(values: Tensor, spans: Sequence[tuple[str, slice]]) -> np.ndarray:
    """One row for each word of what there is for each token (T', ...): the mean, where a word has several."""
    rows = values.float().cpu().numpy()
    return np.stack([rows[where].mean(axis=0) for _, where in spans]) if spans else rows[:0]


def of_segment(
    maps: AttentionMaps, segment: Segment, where: slice, mask: Tensor, row: int, photo: Opened
) -> AttentionMaps:
    """The maps of one segment's real locations, with the place of each.

    Args:
        maps: weights of all locations.
        segment: the segment.
        where: its locations among all.
        mask: (L,) bool, which are real.
        row: of the image in its batch.
        photo: the photo, or the sentence.
    """
    real = mask[where].cpu().numpy()
    alpha = maps.alpha[:, where][:, real]
    heads = None if maps.heads is None else maps.heads[..., where][..., real]
    if segment.grid is not None:
        if heads is not None:
            heads = heads.reshape(*heads.shape[:2], *segment.grid)
        alpha = alpha.reshape(len(alpha), *segment.grid)
        found: AttentionMaps = GridMaps(maps.words, alpha, photo.size, photo.view)
    elif segment.boxes is not None:
        x0, y0, x1, y1 = photo.view
        corner, extent = np.array([x0, y0, x0, y0]), np.array([x1 - x0, y1 - y0, x1 - x0, y1 - y0])
        boxes = (corner + segment.boxes[row].float().cpu().numpy()[real] * extent).astype(np.float32)
        scores = None if segment.scores is None else segment.scores[row].float().cpu().numpy()[real]
        found = RegionMaps(maps.words, alpha, photo.size, boxes, scores=scores)
    else:
        found = WordMaps(maps.words, alpha, photo.source_words)
    return replace(found, heads=heads, head_names=maps.head_names, sentinel=maps.sentinel)
