"""Attention around another scorer."""

from __future__ import annotations

import pytest
import torch
from attention_cases import (
    FEATURE_DIM,
    QUERY_DIM,
    SCORES,
    FirstNumber,
    build,
    look,
    memories,
    queries,
    random_memory,
    steps,
)

from captioner.models.attention import (
    Entmax15,
    GeneralAttention,
    HardAttention,
    LocalMonotonicAttention,
    LocalPredictiveAttention,
    LocationAttention,
    MultiHeadAttention,
    Sparsemax,
)


def test_a_wrapper_refuses_what_its_scorer_refuses():
    with pytest.raises(ValueError, match="LocationAttention is not defined over regions"):
        build(HardAttention, {"scorer": LocationAttention}).prepare(memories()["regions"])


@pytest.mark.parametrize("wrapper", [LocalMonotonicAttention, LocalPredictiveAttention, HardAttention])
@pytest.mark.parametrize("scorer", [FirstNumber, *SCORES, MultiHeadAttention])
def test_wrappers_take_any_scorer(wrapper, scorer):
    if scorer is MultiHeadAttention and wrapper is HardAttention:
        return  # refused, see test_hard.py
    torch.manual_seed(0)
    attention = wrapper(FEATURE_DIM, FEATURE_DIM, scorer, normaliser=Sparsemax()).double().eval()
    memory, query = random_memory(attention, [6, 3]), queries(attention, 2, 3)
    attended = look(attention, query, memory)
    assert attention.scorer.normaliser is attention.normaliser
    factor = attention.focus(query, memory, steps(2, 3)).factor
    plain = attention.scorer(query, memory)  # the window of 10 holds all of them
    for name, weights in (("alpha", plain.alpha), *plain.extras.items()):
        if factor is not None:
            weights = weights * (factor[:, :, None] if name == "heads" else factor)
        torch.testing.assert_close(attended.alpha if name == "alpha" else attended.extras[name], weights)


def test_a_wrapper_leaves_its_scorers_normaliser_unless_told():
    attention = LocalMonotonicAttention(
        FEATURE_DIM, QUERY_DIM, lambda feature_dim, query_dim: GeneralAttention(feature_dim, query_dim, Entmax15())
    )
    assert isinstance(attention.normaliser, Entmax15) and attention.normaliser is attention.scorer.normaliser
