"""Memories: made of grids, regions and words, joined, cut and moved with all that belongs to them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from captioner.types import Kind, Memory


def grid() -> Memory:
    return Memory.from_grid(torch.arange(24.0).view(2, 3, 2, 2))


def regions() -> Memory:
    mask = torch.tensor([[True, True], [True, False]])
    return Memory.from_regions(torch.rand(2, 2, 3), mask, torch.rand(2, 2, 4), torch.rand(2, 2))


def test_a_grid_is_read_row_by_row():
    memory = grid()
    assert memory.features[1].tolist() == [[12, 16, 20], [13, 17, 21], [14, 18, 22], [15, 19, 23]]
    assert (memory.grid, memory.kinds) == ((2, 2), (Kind.GRID,))
    assert memory.mask.all()


def test_several_memories_are_one_after_another():
    words = Memory.from_words(torch.rand(2, 5, 3), torch.ones(2, 5, dtype=torch.bool))
    memory = Memory.concatenate([grid(), regions(), words])
    assert memory.kinds == (Kind.GRID, Kind.REGIONS, Kind.WORDS)
    assert [segment.length for segment in memory.segments] == [4, 2, 5]
    assert memory.features.shape == (2, 11, 3)
    assert memory.mask[1].tolist() == [True] * 5 + [False] + [True] * 5
    assert memory.grid is None


@pytest.mark.parametrize("make", [grid, regions])
def test_what_has_a_row_per_image_is_changed_together(make):
    memory = replace(make(), keys=torch.rand(2, 4, 7), values=torch.rand(2, 4, 7)).with_note("mean", torch.rand(2, 9))
    (segment,) = memory.segments
    segment = replace(segment, times=torch.rand(2, segment.length, 2))
    memory = replace(memory, segments=(segment,))
    turned = memory.map(lambda tensor: tensor.flip(0))
    (turned_segment,) = turned.segments
    pairs = [(memory, turned, name) for name in ("features", "mask", "keys", "values")]
    for before, after, name in [*pairs, *((segment, turned_segment, name) for name in ("boxes", "scores", "times"))]:
        old, new = getattr(before, name), getattr(after, name)
        assert (old is None and new is None) or torch.equal(old.flip(0), new)
    assert torch.equal(turned.note("mean"), memory.note("mean").flip(0))


def test_a_note_that_is_not_there_says_what_to_do():
    with pytest.raises(ValueError, match=r"no note 'mean': call the decoder's prepare\(memory\) first"):
        grid().note("mean")


def test_the_first_images_are_views():
    memory = regions()
    one = memory.first(1)
    assert one.features.shape == (1, 2, 3)
    assert one.features.data_ptr() == memory.features.data_ptr()
    assert one.segments[0].boxes.shape == (1, 2, 4)
    assert memory.first(2) is memory
