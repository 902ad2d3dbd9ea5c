"""One word after another, never looking back: the loop of greedy search and of sampling."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from captioner.decoding.common import Lookout, state_sizes
from captioner.decoding.rules import Rules
from captioner.types import Found, State, Step

Choose = Callable[[Tensor], Tensor]
"""Log-probabilities of the next word, (B, K, V), forbidden ones -inf, to the chosen words (B, K)."""


@torch.no_grad()
def roll_out(step: Step, state: State, rules: Rules, choose: Choose) -> Found:
    """Follow `choose` from the begin word to the end word, for K sequences per image side by side.

    A sequence stops at the end word; or unfinished, with the words it has, after `rules.max_length`
    words or where no word is possible.

    Args:
        step: one word further (see `captioner.types.Step`).
        state: (B, K, ...) before the first word.
        rules: what captions must obey.
        choose: picks the next words.

    Returns:
        K captions of each image, in the order of the state's sequences; scores are log-probabilities. They are no
        numbers where the model's are none.
    """
    num_images, num_sequences, device = state_sizes(state)
    tokens = torch.full((num_images, num_sequences, 1), rules.bos_id, device=device)
    log_probs = torch.zeros(num_images, num_sequences, device=device)
    lengths = torch.zeros_like(tokens[..., 0])
    finished = torch.zeros_like(lengths, dtype=torch.bool)
    stopped = torch.zeros_like(finished)
    lookout = Lookout()

    for num_words in range(rules.max_length + 1):
        logits, state = step(tokens[:, :, -1], state)  # (B, K, V)
        next_log_probs = rules.log_probs(logits, tokens[:, :, 1:])
        words = choose(next_log_probs)  # (B, K)
        gained = next_log_probs.gather(-1, words[..., None])[..., 0]
        likeliest = next_log_probs.amax(dim=-1)  # no number where the model's are none, whatever word was picked
        gained = torch.where(likeliest.isnan(), likeliest, gained)
        ends = words == rules.eos_id
        taken = ~stopped & (gained != -torch.inf) & (ends | (num_words < rules.max_length))

        log_probs = torch.where(taken, log_probs + gained, log_probs)
        lengths = lengths + (taken & ~ends)
        finished = finished | (taken & ends)
        stopped = ~taken | ends
        tokens = torch.cat([tokens, words[..., None]], dim=-1)  # (B, K, 1 + t)
        if lookout.sees_the_end(stopped):
            break

    words = tokens[:, :, 1:]
    words = words.masked_fill(torch.arange(words.shape[-1], device=device) >= lengths[..., None], 0)
    return Found(words, lengths, log_probs, log_probs, finished)
