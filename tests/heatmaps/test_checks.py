"""Maps that cannot be drawn are refused by name."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from figure_cases import make_maps
from PIL import Image

from captioner.heatmaps import animation, figure
from captioner.types import AttentionMaps, GridMaps


def make_photo(size: tuple[int, int] = (90, 60)) -> Image.Image:
    pixels = np.random.default_rng(1).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def test_maps_of_no_kind_are_refused():
    with pytest.raises(TypeError, match="GridMaps, RegionMaps or WordMaps"):
        figure(make_photo(), AttentionMaps(("a",), np.ones((1, 4, 5))))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sentinel": np.ones(3)}, "sentinel has shape"),
        ({"sentinel": np.array([0.5, np.inf])}, "sentinel holds"),
        ({"heads": np.ones((2, 4, 5))}, "heads have shape"),
        ({"heads": np.ones((2, 8, 5, 4))}, "heads have shape"),
        ({"heads": np.full((2, 8, 4, 5), np.nan)}, "heads holds"),
        ({"alpha": np.ones((2, 20))}, "alpha has shape"),
        ({"alpha": np.ones((2, 0, 5))}, "at least one place"),
    ],
)
def test_arrays_that_do_not_belong_together_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        figure(make_photo(), replace(make_maps(["a", "b"]), **changes))


def test_maps_of_a_photo_need_their_photo():
    with pytest.raises(ValueError, match="GridMaps are drawn on their photo"):
        figure(None, make_maps(["a"]))


def test_maps_of_another_photo_are_refused():
    with pytest.raises(ValueError, match="90x60"):
        figure(make_photo((90, 60)), make_maps(["a"], (60, 90)))
    with pytest.raises(ValueError, match="2 words"):
        animation(make_photo(), GridMaps(("a", "b"), np.ones((1, 4, 5)), (90, 60), (0, 0, 90, 60)))
    with pytest.raises(ValueError, match="finite"):
        figure(make_photo(), GridMaps(("a",), np.full((1, 4, 5), np.nan), (90, 60), (0, 0, 90, 60)))
