"""Photos and maps to draw."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from captioner.heatmaps import save_gif
from captioner.types import GridMaps


def make_maps(words: list[str], size: tuple[int, int] = (90, 60), same: bool = False) -> GridMaps:
    alpha = np.random.default_rng(2).dirichlet(np.ones(20), len(words)).reshape(-1, 4, 5).astype(np.float32)
    if same and words:
        alpha[:] = alpha[0]
    return GridMaps(tuple(words), alpha, size, (0, 0, *size))


def gif_of(frames: list[Image.Image]) -> Image.Image:
    file = io.BytesIO()
    save_gif(frames, file)
    return Image.open(file)
