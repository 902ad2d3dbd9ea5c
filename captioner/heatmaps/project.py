"""From the cells of an attention grid, or the boxes of regions, to the pixels of the upright photo.

A grid's map is a density: cell (i, j) holds `alpha[i, j]`, spread evenly over the rectangle that the cell covers
in the photo and, when smooth, blurred by a Gaussian. A pixel gets the mean density over its own area. Both
steps are separable and linear, so a projection is two small matrices around `alpha`: exact at any size, no
blurring of large pictures, and no weight is lost where a pixel is larger than a cell.
"""

from __future__ import annotations

import numpy as np
from scipy.special import ndtr

Box = tuple[float, float, float, float]

SIGMA = 20 / 224
"""Width of the blur as a share of the grid's side: the authors' sigma of 20 pixels on a 224 pixel picture."""

SIGMA_CELLS = (0.5, 1.25)
"""The least blur that hides the cells' edges, and the most, which is the authors' on their 14x14 grid."""


def project(alpha: np.ndarray, grid_box: Box, image_size: tuple[int, int], smooth: bool = True) -> np.ndarray:
    """The weight that each pixel of the photo carries, in units of weight per cell.

    A cell's weight, where nothing is blurred, stands unchanged in all pixels of the cell; the mean over the
    box's pixels is the mean of `alpha`. Nothing is scaled: drawing does that.

    Smooth maps follow the authors' `pyramid_expand(upscale=16, sigma=20)`, made for 14x14 cells of 16 pixels
    (1.25 cells). The blur keeps its share of the picture on other grids: sigma is n * 20 / 224 cells for
    n cells along a side, at least 0.5 and at most 1.25 cells (0.63 cells for 7, 0.8 for 9, 1.25 from 14 on).
    Weight that the blur carries over the box's edge is reflected back, so a uniform map stays uniform.

    Args:
        alpha: (h, w) weights of the grid's cells, row by row.
        grid_box: (x0, y0, x1, y1) the rectangle that the grid covers, in pixels of the photo. Pixels outside
            get 0; a part of the box beyond the photo is cut off.
        image_size: (width, height) of the picture to project on.
        smooth: blur with a Gaussian; otherwise every pixel takes the weight of the cell it lies in (the
            area-weighted mean where it lies in several).

    Returns:
        (height, width) float32.

    Raises:
        ValueError: for weights that are not a grid, or an empty box.
    """
    if alpha.ndim != 2 or alpha.size == 0:
        raise ValueError(f"alpha has shape {alpha.shape}; one map is a grid (h, w) with at least one cell")
    x0, y0, x1, y1 = grid_box
    if not (x1 > x0 and y1 > y0):
        raise ValueError(f"grid_box {grid_box} is empty; it needs x0 < x1 and y0 < y1")
    width, height = image_size
    rows = _pixel_weights(height, alpha.shape[0], y0, y1, smooth)  # (height, h)
    columns = _pixel_weights(width, alpha.shape[1], x0, x1, smooth)  # (width, w)
    return (rows @ alpha.astype(np.float32)) @ columns.T  # (height, width)


def peak(alpha: np.ndarray, smooth: bool = True) -> float:
    """The highest density that a map (h, w) reaches anywhere in its box, also beyond the photo's edges."""
    if not smooth:
        return float(alpha.max())
    height, width = 8 * alpha.shape[0], 8 * alpha.shape[1]
    return float(project(alpha, (0, 0, width, height), (width, height)).max())


def project_regions(alpha: np.ndarray, boxes: np.ndarray, image_size: tuple[int, int]) -> np.ndarray:
    """The weight that each pixel of the photo carries: that of all boxes that cover it, added up.

    A pixel on a box's edge takes the share of the weight that the box covers of the pixel.

    Args:
        alpha: (R,) weights of the regions.
        boxes: (R, 4) x0, y0, x1, y1 in pixels of the picture to project on; what lies beyond it is cut off.
        image_size: (width, height) of that picture.

    Returns:
        (height, width) float32.
    """
    width, height = image_size
    rows = _covered(height, boxes[:, 1], boxes[:, 3])  # (height, R)
    columns = _covered(width, boxes[:, 0], boxes[:, 2])  # (width, R)
    return (rows * alpha.astype(np.float32)) @ columns.T  # (height, width)


def _covered(num_pixels: int, start: np.ndarray, stop: np.ndarray) -> np.ndarray:
    """The share of each pixel of one axis that lies between the starts (R,) and stops (R,): (num_pixels, R) float32."""
    pixel = np.arange(num_pixels)[:, None]
    return (np.minimum(stop, pixel + 1) - np.maximum(start, pixel)).clip(0, 1).astype(np.float32)


def _pixel_weights(num_pixels: int, num_cells: int, start: float, stop: float, smooth: bool) -> np.ndarray:
    """How much of each cell's density each pixel of one axis sees.

    Args:
        num_pixels: pixels along the axis of the photo.
        num_cells: cells along the axis of the grid.
        start: where the first cell begins, in pixels.
        stop: where the last cell ends, in pixels.
        smooth: whether the cells are blurred.

    Returns:
        (num_pixels, num_cells) float32; rows sum to 1 inside the box and to 0 outside.
    """
    cells_per_pixel = num_cells / (stop - start)
    edges = (np.arange(num_pixels + 1) - start) * cells_per_pixel  # pixel edges in cells
    edges = edges.clip(0, num_cells)
    cumulated = _smooth_share(edges, num_cells) if smooth else _share(edges, num_cells)
    return (np.diff(cumulated, axis=0) / cells_per_pixel).astype(np.float32)


def _share(position: np.ndarray, num_cells: int) -> np.ndarray:
    """The share of each cell that lies before each position: (N,) in cells to (N, num_cells)."""
    return (position[:, None] - np.arange(num_cells)).clip(0, 1)


def _smooth_share(position: np.ndarray, num_cells: int) -> np.ndarray:
    """The same of blurred cells, up to a constant per cell: (N,) to (N, num_cells)."""
    sigma = float(np.clip(num_cells * SIGMA, *SIGMA_CELLS))
    share = np.zeros((len(position), num_cells))
    cells = np.arange(num_cells)
    for turn in (-2 * num_cells, 0, 2 * num_cells):
        for left in (turn + cells, turn - 1 - cells):  # a cell and its mirror image
            share += _ramp(position[:, None] - left, sigma) - _ramp(position[:, None] - left - 1, sigma)
    return share


def _ramp(distance: np.ndarray, sigma: float) -> np.ndarray:
    """max(distance, 0) blurred by a Gaussian: the integral of its cumulative distribution."""
    z = distance / sigma
    return distance * ndtr(z) + sigma * np.exp(-0.5 * z * z) / np.sqrt(2 * np.pi)
