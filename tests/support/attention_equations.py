"""The equations of attention in plain numbers: what one query (of the word number `step`) sees of an image."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from attention_cases import GRID, SCORES, dot, times

from captioner.models.attention import (
    HardAttention,
    LocalMonotonicAttention,
    LocalPredictiveAttention,
    MultiHeadAttention,
)


def softmax(scores: Sequence[float]) -> list[float]:
    total = sum(math.exp(score) for score in scores)
    return [math.exp(score) / total for score in scores]


def mean(weights: Sequence[float], vectors: Sequence[Sequence[float]]) -> list[float]:
    return [dot(weights, coordinates) for coordinates in zip(*vectors, strict=True)]


def soft(attention, query, vectors, step):
    score = SCORES[type(attention)]
    weights = softmax([score(attention, query, vector, i) for i, vector in enumerate(vectors)])
    return weights, mean(weights, vectors)


def multi_head(attention, query, vectors, step):
    size = attention.attention_dim // attention.num_heads
    all_weights, joined = [], []
    for head in range(attention.num_heads):
        own = slice(head * size, (head + 1) * size)
        q = times(attention.query, query)[own]
        weights = softmax([dot(q, times(attention.key, vector)[own]) / math.sqrt(size) for vector in vectors])
        joined += mean(weights, [times(attention.value, vector)[own] for vector in vectors])
        all_weights.append(weights)
    return [sum(column) / attention.num_heads for column in zip(*all_weights, strict=True)], times(
        attention.output, joined
    )


def window(attention, query, vectors, centre, factor):
    """A softmax within the window around a centre, times a factor of the distances."""
    places = itertools.product(*map(range, GRID if attention.two_dimensional else (len(vectors),)))
    distances = [[x - c for x, c in zip(place, centre, strict=True)] for place in places]
    near = [i for i, distance in enumerate(distances) if max(map(abs, distance)) <= attention.window]
    score = SCORES[type(attention.scorer)]
    inside = softmax([score(attention.scorer, query, vectors[i], i) for i in near])
    weights = [0.0] * len(vectors)
    for i, weight in zip(near, inside, strict=True):
        weights[i] = weight * factor(distances[i])
    return weights, mean(weights, vectors)


def local_monotonic(attention, query, vectors, step):
    last = min(step, len(vectors) - 1)
    centre = divmod(last, GRID[1]) if attention.two_dimensional else (last,)
    return window(attention, query, vectors, centre, lambda distances: 1.0)


def local_predictive(attention, query, vectors, step):
    sizes = GRID if attention.two_dimensional else (len(vectors),)
    energies = times(attention.place, [math.tanh(x) for x in times(attention.hidden, query)])
    centre = [size / (1 + math.exp(-energy)) for size, energy in zip(sizes, energies, strict=True)]
    sigma = attention.window / 2
    return window(
        attention, query, vectors, centre, lambda distances: math.exp(-dot(distances, distances) / (2 * sigma**2))
    )


EQUATIONS = dict.fromkeys(SCORES, soft) | {
    MultiHeadAttention: multi_head,
    LocalMonotonicAttention: local_monotonic,
    LocalPredictiveAttention: local_predictive,
    HardAttention: lambda attention, *rest: soft(attention.scorer, *rest),  # of evaluation; see test_hard.py
}
