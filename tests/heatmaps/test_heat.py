"""Maps of regions: the heat lies in the boxes, the heaviest are outlined, and odd boxes do no harm."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from captioner.heatmaps import animation, figure
from captioner.heatmaps.heat import drawn_size, heat_panels, highest_weight, resized
from captioner.types import RegionMaps

SIZE = (600, 400)
GREY = (128, 128, 128)


def make_maps(alpha: list[list[float]], boxes: list[tuple[float, float, float, float]]) -> RegionMaps:
    words = tuple(f"word{i}" for i in range(len(alpha)))
    return RegionMaps(words, np.array(alpha, dtype=np.float32), SIZE, np.array(boxes, dtype=np.float32))


def panels(maps: RegionMaps, scale: float = 1.0, highest: float | None = None) -> list[np.ndarray]:
    """The panels (H, W, 3) on a grey photo that is drawn `scale` times as large as it is."""
    size = (round(SIZE[0] * scale), round(SIZE[1] * scale))
    drawn = heat_panels(Image.new("RGB", size, GREY), maps, smooth=True, highest=highest)
    return [np.asarray(panel).astype(int) for panel in drawn]


def colourful(pixels: np.ndarray) -> np.ndarray:
    return pixels.max(axis=-1) - pixels.min(axis=-1) > 20


@pytest.mark.parametrize("scale", [0.5, 1.0])
@pytest.mark.parametrize("box", [(50, 300, 130, 380), (350, 100, 580, 250), (0, 0, 90, 60), (500, 320, 600, 400)])
def test_the_heat_lies_in_the_box(box, scale):
    other = (200, 150, 260, 210)
    (panel,) = panels(make_maps([[1, 0]], [box, other]), scale)
    x0, y0, x1, y1 = (round(edge * scale) for edge in box)
    hot = colourful(panel)
    assert hot[y0 + 4 : y1 - 4, x0 + 4 : x1 - 4].all()
    hot[y0:y1, x0:x1] = False
    assert not hot.any()


def test_pixels_in_two_boxes_are_hotter():
    (panel,) = panels(make_maps([[0.5, 0.5]], [(100, 100, 300, 300), (200, 200, 400, 350)]))
    once, twice = panel[150, 150], panel[250, 250]
    assert once.sum() < twice.sum()


def test_heavy_boxes_are_outlined_and_light_ones_are_not():
    boxes = [(40, 140, 140, 240), (200, 140, 300, 240), (360, 140, 460, 240)]
    (panel,) = panels(make_maps([[0.5, 0.3, 0.2]], boxes))
    white = (panel == 255).all(axis=-1)
    frames = [white[190, x0] and white[190, x1 - 1] and white[239, x0:x1].all() for x0, _, x1, _ in boxes]
    assert frames == [True, True, False]


def test_a_weight_stands_at_its_box_and_does_not_hide_it():
    """White tags above the box, below it at the upper edge; the inside stays free."""
    for box, above in [((200, 200, 220, 215), True), ((200, 2, 400, 80), False)]:
        (panel,) = panels(make_maps([[1.0]], [box]))
        x0, y0, x1, y1 = box
        white = (panel == 255).all(axis=-1)
        tag = slice(y0 - 16, y0 - 2) if above else slice(y1 + 2, y1 + 16)
        assert white[tag, x0 : x0 + 25].mean() > 0.4
        assert colourful(panel)[y0 + 5 : y1 - 5, x0 + 5 : x1 - 5].all()


def test_one_scale_for_all_words_or_one_for_each():
    maps = make_maps([[0.9, 0.1], [0.3, 0.3]], [(100, 100, 300, 300), (400, 100, 500, 300)])
    sure, unsure = (panel[200, 200] for panel in panels(maps))
    assert (sure == unsure).all()
    sure, unsure = (panel[200, 200] for panel in panels(maps, highest=highest_weight(maps, SIZE, smooth=True)))
    assert unsure.sum() < 0.6 * sure.sum()


ODD_BOXES = {
    "one": [(10, 10, 200, 200)],
    "whole": [(0, 0, 600, 400)],
    "beyond": [(-50, -50, 700, 30), (590, 390, 800, 800)],
    "outside": [(700, 500, 800, 600)],
    "flat": [(100, 100, 100, 300), (50, 60, 300, 60)],
    "specks": [(5, 5, 5.4, 5.4), (599.5, 399.5, 600, 400)],
    "same": [(100, 100, 300, 300)] * 5,
    "many": [(x, y, x + 90, y + 70) for x in range(0, 540, 60) for y in range(0, 360, 60)],
}


@pytest.mark.parametrize("boxes", ODD_BOXES.values(), ids=ODD_BOXES)
@pytest.mark.parametrize("side", [32, 256])
def test_odd_boxes_are_drawn(boxes, side):
    alpha = np.random.default_rng(0).dirichlet(np.ones(len(boxes)), 3).tolist()
    maps = make_maps([*alpha, [0.0] * len(boxes)], boxes)
    photo = Image.new("RGB", SIZE, GREY)
    assert figure(photo, maps, side=side).mode == "RGB"
    assert len(animation(photo, maps, side=side)) == 4


@pytest.mark.parametrize("size", [(3000, 60), (60, 3000), (2, 2), (1, 1)])
def test_every_shape_of_photo_is_drawn(size):
    maps = RegionMaps(("a", "b"), np.full((2, 1), 0.5), size, np.array([(0, 0, *size)], dtype=np.float32))
    photo = Image.new("RGB", size, GREY)
    assert max(figure(photo, maps, side=64).size) < 4000
    assert len(animation(photo, maps, side=64)) == 2


def test_the_photo_shows_all_boxes():
    """The first panel has the outline of each box, heavy or not."""
    maps = make_maps([[1, 0]], [(60, 80, 200, 200), (300, 100, 500, 300)])
    photo = Image.new("RGB", SIZE, (200, 30, 30))
    page = np.asarray(figure(photo, maps)).astype(int)
    drawn = np.asarray(resized(photo, drawn_size(photo, 256)))
    y, x = np.argwhere((page == drawn[0, 0]).all(axis=-1)).min(axis=0)
    first = page[y : y + drawn.shape[0], x : x + drawn.shape[1]]
    changed = (first != drawn).any(axis=-1)
    scale = (drawn.shape[1] / SIZE[0], drawn.shape[0] / SIZE[1])
    for x0, y0, x1, y1 in (maps.boxes * np.tile(scale, 2)).round().astype(int):
        assert changed[y0, x0:x1].all()
        assert changed[y0:y1, x1 - 1].all()
        changed[y0 : y0 + 2, x0:x1] = changed[y1 - 2 : y1, x0:x1] = False
        changed[y0:y1, x0 : x0 + 2] = changed[y0:y1, x1 - 2 : x1] = False
    assert not changed.any()


@pytest.mark.parametrize(
    ("alpha", "boxes", "message"),
    [
        (np.ones((1, 2)), np.ones((3, 4)), "alpha has shape"),
        (np.ones((1, 2)), np.ones((2, 5)), "boxes of shape"),
        (np.ones((1, 1)), np.full((1, 4), np.nan), "boxes of shape"),
        (np.ones((1, 0)), np.ones((0, 4)), "at least one place"),
    ],
)
def test_boxes_that_do_not_belong_to_the_weights_are_refused(alpha, boxes, message):
    with pytest.raises(ValueError, match=message):
        figure(Image.new("RGB", SIZE), RegionMaps(("a",), alpha, SIZE, boxes))
