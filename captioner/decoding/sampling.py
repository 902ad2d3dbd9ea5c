"""Sampling: words drawn by their probability, from the whole distribution or from its head."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from captioner.decoding.common import MAX_SEQUENCES, start_sizes
from captioner.decoding.rollout import roll_out
from captioner.decoding.rules import Rules
from captioner.types import Found, State, Step


def sample(
    step: Step,
    state: State,
    rules: Rules,
    generator: torch.Generator | None,
    num_samples: int = 5,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    shared: bool = False,
) -> Found:
    """Draw `num_samples` captions of each image, independent of one another.

    Args:
        step: one word further (see `captioner.types.Step`).
        state: (B, 1, ...) before the first word.
        rules: what captions must obey.
        generator: where the random numbers come from, of the state's device; None: torch's own of that device.
        num_samples: K, captions per image.
        temperature: what log-probabilities are divided by; below 1 the likelier words gain. See `word_weights`.
        top_k: draw from so many of the likeliest words.
        top_p: draw from the fewest of the likeliest words that together have this probability.
        shared: whether the images share their random numbers at every step, one for each sample: what an image's
            captions are then does not depend on the images beside it, and across images they are not independent.

    Returns:
        K captions of each image in the order of the draws, the same words twice perhaps. Log-probabilities and scores
        are the model's own, whatever the words were drawn from.

    Raises:
        ValueError: for values outside their bounds, or a state of several sequences per image.
    """
    num_images, device = start_sizes(state)
    images = (1,) if shared else (num_images,)
    check_sampling(num_samples, temperature, top_k, top_p)

    def draw(log_probs: Tensor) -> Tensor:
        uniform = torch.rand(*images, num_samples, generator=generator, device=device)
        return drawn(word_weights(log_probs, temperature, top_k, top_p), uniform)

    state = {name: tensor.expand(-1, num_samples, *tensor.shape[2:]) for name, tensor in state.items()}
    return roll_out(step, state, rules, draw)


def check_sampling(num_samples: int, temperature: float, top_k: int | None, top_p: float | None) -> None:
    """Refuse what nothing can be drawn with."""
    if not 1 <= num_samples <= MAX_SEQUENCES:
        raise ValueError(f"num_samples={num_samples} must be 1 or more, and {MAX_SEQUENCES:,} at most")
    if not (temperature > 0 and math.isfinite(temperature)):
        raise ValueError(
            f"temperature={temperature} must be above 0 and finite; GreedySearch takes the likeliest words"
        )
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k={top_k} must be 1 or more, or None for all words")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p={top_p} must lie above 0 and not above 1; None leaves it out")


def word_weights(log_probs: Tensor, temperature: float, top_k: int | None, top_p: float | None) -> Tensor:
    """What the next words are drawn by: tempered probabilities of the allowed words, 0 outside the head.

    First temperature, then `top_k` (Fan et al. 2018, arXiv 1805.04833), then `top_p`, of what is left then
    (nucleus sampling, Holtzman et al. 2020, arXiv 1904.09751, section 3.1).

    Args:
        log_probs: (B, K, V), -inf for what is forbidden.
        temperature: above 0.
        top_k: a number of words, or None.
        top_p: a probability, or None.

    Returns:
        (B, K, V) proportional to the probability of being drawn; all 0 where no word is possible.
    """
    temperature = max(temperature, torch.finfo(log_probs.dtype).tiny)  # what is smaller would be 0
    scores = (log_probs - log_probs.amax(dim=-1, keepdim=True)) / temperature
    if top_k is None and top_p is None:
        return scores.softmax(dim=-1).nan_to_num(0.0)
    vocab_size = scores.shape[-1]
    best, index = scores.topk(vocab_size if top_k is None else min(top_k, vocab_size))  # (B, K, k), likeliest first
    head = best.softmax(dim=-1).nan_to_num(0.0)
    if top_p is not None:
        before = F.pad(head.cumsum(dim=-1)[..., :-1], (1, 0))  # what the likelier words have together
        head = head.masked_fill(before >= top_p, 0.0)
    return torch.zeros_like(scores).scatter(-1, index, head)


def drawn(weights: Tensor, uniform: Tensor) -> Tensor:
    """The words that uniform numbers point at, the vocabulary being a line of pieces as long as the words' weights.

    Args:
        weights: (B, K, V), 0 or more.
        uniform: (B, K), or (1, K) for all images alike; at least 0 and less than 1.

    Returns:
        (B, K) words; any word where all weights are 0.
    """
    ends = weights.cumsum(dim=-1)
    words = torch.searchsorted(ends, uniform[..., None] * ends[..., -1:], right=True)  # (B, K, 1)
    words = words.clamp(max=weights.shape[-1] - 1)
    # rounding may point past the last piece, or at one of no length
    return torch.where(weights.gather(-1, words) > 0, words, weights.argmax(dim=-1, keepdim=True))[..., 0]
