"""Every scorer of the package, and memories and queries to try them with."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from captioner.models.attention import (
    AdditiveAttention,
    Attention,
    ConcatAttention,
    DotAttention,
    GeneralAttention,
    HardAttention,
    LocalMonotonicAttention,
    LocalPredictiveAttention,
    LocationAttention,
    MultiHeadAttention,
    ScaledDotAttention,
)
from captioner.types import Attended, Kind, Memory, Segment

FEATURE_DIM, QUERY_DIM, GRID = 6, 5, (2, 3)
NUM_LOCATIONS = 6


# the arguments to test a class with, in place of none: small sizes, and every choice that changes what it does
ARGUMENTS = {
    AdditiveAttention: [{"attention_dim": 7}, {"attention_dim": 7, "bias": False}],
    ConcatAttention: [{"attention_dim": 7}],
    LocationAttention: [{"num_locations": NUM_LOCATIONS}],
    ScaledDotAttention: [{"attention_dim": 7}],
    MultiHeadAttention: [{"attention_dim": 8, "num_heads": 2}],
    LocalMonotonicAttention: [{}, {"window": 1}, {"window": 1, "two_dimensional": True}],
    LocalPredictiveAttention: [{}, {"window": 1}, {"window": 1, "two_dimensional": True}],
    HardAttention: [{"scorer": GeneralAttention}],
}


def dot(a: Sequence[float], b: Sequence[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def times(layer: nn.Linear, vector: Sequence[float]) -> list[float]:
    """A layer's matrix times a vector, plus its bias."""
    bias = [0.0] * layer.out_features if layer.bias is None else layer.bias.tolist()
    return [dot(row, vector) + b for row, b in zip(layer.weight.tolist(), bias, strict=True)]


def additive(attention, query, vector, location):
    both = zip(times(attention.query, query), times(attention.key, vector), strict=True)
    return times(attention.energy, [math.tanh(q + k) for q, k in both])[0]


def concat(attention, query, vector, location):
    return times(attention.energy, [math.tanh(x) for x in times(attention.joint, [*query, *vector])])[0]


def scaled_dot(attention, query, vector, location):
    return dot(times(attention.query, query), times(attention.key, vector)) / math.sqrt(attention.attention_dim)


SCORES = {
    AdditiveAttention: additive,
    ConcatAttention: concat,
    DotAttention: lambda attention, query, vector, location: dot(query, vector),
    GeneralAttention: lambda attention, query, vector, location: dot(query, times(attention.key, vector)),
    LocationAttention: lambda attention, query, vector, location: times(attention.place, query)[location],
    ScaledDotAttention: scaled_dot,
}


def build(cls: type[Attention], arguments: dict | None = None, **more) -> Attention:
    """One of a class, in double precision and evaluation mode, as the first of `ARGUMENTS` says or as asked."""
    torch.manual_seed(0)
    arguments = ARGUMENTS.get(cls, [{}])[0] if arguments is None else arguments
    return cls(FEATURE_DIM, FEATURE_DIM if cls is DotAttention else QUERY_DIM, **arguments, **more).double().eval()


def grid_memory(features: torch.Tensor, mask: torch.Tensor, grid: tuple[int, int] = GRID) -> Memory:
    """Not prepared; the real cells are to form a rectangle, which all kinds of attention understand."""
    return Memory(features, mask, (Segment(Kind.GRID, features.shape[1], grid=grid),))


def random_memory(attention: Attention, num_real: Sequence[int]) -> Memory:
    features = torch.randn(len(num_real), NUM_LOCATIONS, FEATURE_DIM, dtype=torch.float64)
    mask = torch.arange(NUM_LOCATIONS) < torch.tensor(num_real)[:, None]
    return attention.prepare(grid_memory(features, mask))


def memories() -> dict[str, Memory]:
    def features(length):
        return torch.randn(2, length, FEATURE_DIM, dtype=torch.float64)

    def mask(length):
        return torch.arange(length) < torch.tensor([length, length - 1])[:, None]

    grid = Memory.from_grid(torch.randn(2, FEATURE_DIM, 2, 2, dtype=torch.float64))
    regions = Memory.from_regions(features(3), mask(3), torch.rand(2, 3, 4))
    words = Memory.from_words(features(5), mask(5))
    several = Memory.concatenate([Memory.from_grid(torch.randn(2, FEATURE_DIM, 1, 2, dtype=torch.float64)), words])
    return {"grid": grid, "regions": regions, "words": words, "several": several}


class FirstNumber(Attention):
    """Scores a vector by its first number; what it leaves to the base is all the rest."""

    def project(self, features):
        return features[..., :1]

    def score(self, query, keys):
        return keys.mT.expand(-1, query.shape[1], -1)


def queries(attention: Attention, num_images: int, num_sequences: int) -> torch.Tensor:
    return torch.randn(num_images, num_sequences, attention.query_dim, dtype=torch.float64)


def steps(num_images: int, num_sequences: int) -> torch.Tensor:
    """Another word number for every sequence, some beyond the last location."""
    return torch.arange(num_images * num_sequences).view(num_images, num_sequences)


def look(attention: Attention, query: torch.Tensor, memory: Memory, sentinel: torch.Tensor | None = None) -> Attended:
    return attention(query, memory, steps(*query.shape[:2]), sentinel)
