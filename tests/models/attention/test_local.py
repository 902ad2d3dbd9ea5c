"""Local attention: where its windows lie."""

from __future__ import annotations

import pytest
import torch
from attention_cases import FEATURE_DIM, QUERY_DIM, build, grid_memory, memories, queries, random_memory
from torch import nn

from captioner.models.attention import LocalMonotonicAttention, LocalPredictiveAttention
from captioner.types import Memory


@pytest.mark.parametrize("cls", [LocalMonotonicAttention, LocalPredictiveAttention])
@pytest.mark.parametrize("kind", ["regions", "words", "several"])
def test_two_dimensions_are_those_of_a_grid(cls, kind):
    with pytest.raises(ValueError, match="is not defined over"):
        build(cls, {"two_dimensional": True}).prepare(memories()[kind])


def test_the_monotonic_window_needs_to_know_the_word():
    attention = build(LocalMonotonicAttention)
    with pytest.raises(ValueError, match="step"):
        attention(queries(attention, 1, 1), random_memory(attention, [6]))


def test_windows_are_where_they_should_be_in_long_memories_under_autocast():
    """The numbers of locations are counted in float32: bfloat16 cannot tell 301 from 300."""
    attention = build(LocalMonotonicAttention, {"window": 1}).float()
    memory = Memory.from_words(torch.randn(1, 400, FEATURE_DIM), torch.ones(1, 400, dtype=torch.bool))
    with torch.autocast("cpu", torch.bfloat16):
        alpha = attention(torch.randn(1, 2, QUERY_DIM), attention.prepare(memory), torch.tensor([[301, 4]])).alpha
    assert alpha[0].nonzero().tolist() == [[0, 300], [0, 301], [0, 302], [1, 3], [1, 4], [1, 5]]


def test_a_hole_of_a_grid_as_large_as_the_window_opens_it():
    """The real cells are the corners: no rectangle, and nothing real within 1 of the middle."""
    attention = build(LocalPredictiveAttention, {"window": 1, "two_dimensional": True})
    nn.init.zeros_(attention.place.weight)  # p_t is the middle
    mask = torch.zeros(1, 49, dtype=torch.bool)
    mask[0, [0, 6, 42, 48]] = True
    mask[0, [1, 2, 3, 4, 5]] = mask[0, [7, 14, 21, 28, 35]] = True  # rows and columns all count
    memory = grid_memory(torch.randn(1, 49, FEATURE_DIM, dtype=torch.float64), mask, (7, 7))
    alpha = attention(queries(attention, 1, 2), attention.prepare(memory)).alpha
    assert alpha.isfinite().all() and torch.equal(alpha > 0, mask[:, None].expand_as(alpha))
