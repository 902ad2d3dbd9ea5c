"""What the searches share: reading a state's sizes, knowing when to stop, handing back results."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from captioner.types import Hypothesis, State

STEPS_BETWEEN_LOOKS = 4


def state_sizes(state: State) -> tuple[int, int, torch.device]:
    """Images B and sequences K of a state, whose tensors are all (B, K, ...), and their device."""
    if not state:
        raise ValueError("the state is empty: a search reads from its (B, K, ...) tensors how many images it has")
    tensor = next(iter(state.values()))
    return tensor.shape[0], tensor.shape[1], tensor.device


def start_sizes(state: State) -> tuple[int, torch.device]:
    """Images B of a state to start a search from, (B, 1, ...), and its device."""
    num_images, num_sequences, device = state_sizes(state)
    if num_sequences != 1:
        raise ValueError(f"a search starts from one sequence per image, the state has {num_sequences}")
    return num_images, device


def all_settled(settled: Tensor, num_steps: int) -> bool:
    """Whether nothing is left to search for; a later step would change no result.

    On an accelerator to look is to wait for it, so there only every few steps has a look.

    Args:
        settled: bool, any shape.
        num_steps: steps taken so far.
    """
    if settled.device.type != "cpu" and num_steps % STEPS_BETWEEN_LOOKS:
        return False
    return bool(settled.all())


def read_hypotheses(
    words: Tensor, lengths: Tensor, log_probs: Tensor, scores: Tensor, finished: Tensor
) -> list[list[Hypothesis]]:
    """From tensors to hypotheses, in the order given; rows that are impossible (-inf) are left out.

    Args:
        words: (B, K, T) of which the first `lengths` count.
        lengths: (B, K) number of words.
        log_probs: (B, K).
        scores: (B, K).
        finished: (B, K) bool.

    Returns:
        B lists of up to K hypotheses.
    """
    columns = (words.tolist(), lengths.tolist(), log_probs.tolist(), scores.tolist(), finished.tolist())
    return [
        [
            Hypothesis(row[:length], log_prob, score, done)
            for row, length, log_prob, score, done in zip(*image, strict=True)
            if log_prob != -torch.inf
        ]
        for image in zip(*columns, strict=True)
    ]


def best_distinct(hypotheses: Iterable[Hypothesis], num_best: int) -> list[Hypothesis]:
    """The best `num_best` of different words: finished ones before unfinished ones, then by score."""
    best: dict[tuple[int, ...], Hypothesis] = {}
    for hypothesis in sorted(hypotheses, key=lambda found: (found.finished, found.score), reverse=True):
        best.setdefault(tuple(hypothesis.tokens), hypothesis)
    return list(best.values())[:num_best]
