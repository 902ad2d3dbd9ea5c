"""Photos of many shapes."""

from __future__ import annotations

import numpy as np
from PIL import Image


def gradient(width: int, height: int) -> Image.Image:
    """A photo whose red is its x and whose green its y, from 0 to 255."""
    x, y = np.meshgrid((np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height)
    return Image.fromarray((255 * np.stack([x, y, np.zeros_like(x)], axis=-1)).round().astype(np.uint8))
