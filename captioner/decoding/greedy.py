"""Greedy search: always the likeliest next word."""

from __future__ import annotations

from torch import Tensor

from captioner.decoding.common import start_sizes
from captioner.decoding.rollout import roll_out
from captioner.decoding.rules import Rules
from captioner.types import Found, State, Step


def greedy_search(step: Step, state: State, rules: Rules) -> Found:
    """Caption each image by its likeliest word, step by step.

    Args:
        step: one word further (see `captioner.types.Step`).
        state: (B, 1, ...) before the first word.
        rules: what captions must obey.

    Returns:
        A caption of each image (N = 1); scores are log-probabilities.

    Raises:
        ValueError: a state of several sequences per image (`roll_out` takes these).
    """
    start_sizes(state)
    return roll_out(step, state, rules, likeliest)


def likeliest(log_probs: Tensor) -> Tensor:
    """The likeliest words: (B, K, V) to (B, K)."""
    return log_probs.argmax(dim=-1)
