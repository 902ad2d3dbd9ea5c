"""Where panels, bars and scales stand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from figure_cases import make_maps
from PIL import Image

from captioner.heatmaps import animation, figure
from captioner.heatmaps.heat import drawn_size
from captioner.heatmaps.layout import SENTINEL
from captioner.types import GridMaps


def make_photo(size: tuple[int, int] = (90, 60)) -> Image.Image:
    pixels = np.random.default_rng(1).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize(("size", "drawn"), [((3000, 60), (400, 25)), ((60, 3000), (25, 400)), ((90, 60), (122, 82))])
def test_panels_keep_the_shape_of_the_photo_but_are_no_strips(size, drawn):
    assert drawn_size(Image.new("RGB", size), 100) == drawn


def colourful(picture: Image.Image) -> np.ndarray:
    """Where a picture (H, W) has pixels that are far from grey."""
    pixels = np.asarray(picture).astype(int)
    return pixels.max(axis=-1) - pixels.min(axis=-1) > 40


@pytest.mark.parametrize("shared_scale", [True, False])
def test_a_scale_under_the_panels_runs_from_cold_to_hot(shared_scale):
    """With maps without weight it is all that has a colour."""
    maps = GridMaps(("a", "b"), np.zeros((2, 4, 5), dtype=np.float32), (90, 60), (0, 0, 90, 60))
    page = figure(Image.new("RGB", (90, 60), "grey"), maps, shared_scale=shared_scale)
    y, x = np.nonzero(colourful(page))
    assert page.height - 60 < y.min() <= y.max() < page.height - 20
    assert y.max() - y.min() < 15
    red = np.asarray(page)[y[0], x.min() : x.max() + 1, 0].astype(int)
    assert (np.diff(red) >= -3).all()  # three of the channels' corners are rounded
    assert red[-1] > red[0] + 100


def test_the_scale_says_its_weight_where_panels_share_it():
    maps = make_maps(["two", "dogs"])
    own, shared = (np.asarray(figure(make_photo(), maps, shared_scale=shared))[-45:] < 200 for shared in (False, True))
    assert shared.any(axis=(0, 2)).sum() < 0.7 * own.any(axis=(0, 2)).sum()  # a number, or a sentence
    more = replace(maps, alpha=maps.alpha * 0.5)
    first, other = (figure(make_photo(), each, shared_scale=True) for each in (maps, more))
    height = first.height - 45
    assert first.crop((0, 0, first.width, height)).tobytes() == other.crop((0, 0, first.width, height)).tobytes()
    assert first.tobytes() != other.tobytes()


def test_a_sentinel_is_a_bar_as_long_as_its_weight():
    weights = np.array([0.0, 0.25, 0.5, 1.0], dtype=np.float32)
    maps = replace(make_maps(["a", "b", "c", "d"]), sentinel=weights)
    page = np.asarray(figure(Image.new("RGB", (90, 60), "grey"), maps))
    blue = (page == SENTINEL).all(axis=-1)
    lengths = [run for row in np.unique(blue, axis=0) for run in runs(row)]
    width = drawn_size(Image.new("RGB", (90, 60)), 256)[0]
    assert sorted(lengths) == pytest.approx(width * weights[1:], abs=1)
    with_it, without = (animation(make_photo(), each) for each in (maps, make_maps(["a", "b", "c", "d"])))
    assert [frame.size for frame in with_it] == [frame.size for frame in without]
    blues = [(np.asarray(frame) == SENTINEL).all(axis=-1).sum() for frame in with_it]
    assert blues == sorted(blues)
    assert blues[0] == 0 < blues[1]
    assert blues[1] == pytest.approx(blues[3] / 4, rel=0.1)


def runs(row: np.ndarray) -> list[int]:
    """The lengths of the runs of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], row, [0]])))
    return (edges[1::2] - edges[::2]).tolist()
