"""Beam search: the best few prefixes of every image, side by side, and the best captions they end in."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from captioner.decoding.common import all_settled, read_hypotheses, state_sizes
from captioner.decoding.rules import Rules
from captioner.types import Hypothesis, State, Step

SILENCE = Hypothesis(tokens=[], log_prob=0.0, score=0.0, finished=False)


@torch.no_grad()
def beam_search(
    step: Step,
    state: State,
    rules: Rules,
    beam_size: int = 5,
    num_best: int = 1,
    length_penalty: float = 0.0,
) -> list[list[Hypothesis]]:
    """Find the captions of the highest score among those that `beam_size` prefixes lead to.

    score = log_prob / length ** length_penalty, where length counts the end word (the plain form in Wu et
    al. 2016, arXiv 1609.08144, section 7, which names 0.6 to 0.7 as usually best for translation).

    At each step the K live prefixes of an image make K * V candidates, ranked by log-probability. Those among
    the best K that end in the end word are finished; the best K of the others live on, so that endings
    never narrow the beam. An image's search is over when no live prefix, were its words to come free up to
    `max_length`, could beat the worst caption that it would return: stopping early changes no result.
    With `length_penalty` 0 a beam of 1 is greedy search; a beam as wide as the space is exhaustive search.

    Args:
        step: one word further (see `captioner.types.Step`).
        state: (B, 1, ...) before the first word.
        rules: what captions must obey.
        beam_size: K, live prefixes per image.
        num_best: captions wanted per image, `beam_size` at most.
        length_penalty: 0 ranks by log-probability, which favours short captions; 1 by the mean
            log-probability of a word. Never negative.

    Returns:
        B lists of 1 to `num_best` distinct hypotheses, best first: as many as have finished or, when none
        has, the best unfinished ones (`max_length` words). Should the model leave no word possible at all,
        the unfinished empty caption.

    Raises:
        ValueError: for sizes or a penalty outside these bounds, or a state of several sequences per image.
    """
    num_images, num_sequences, device = state_sizes(state)
    if num_sequences != 1:
        raise ValueError(f"beam search starts from one sequence per image, the state has {num_sequences}")
    if not 1 <= num_best <= beam_size:
        raise ValueError(f"num_best={num_best} must lie between 1 and beam_size={beam_size}")
    if length_penalty < 0:
        raise ValueError(f"length_penalty={length_penalty} must be 0 (no normalisation) or more")

    live = Live(
        tokens=torch.full((num_images, 1, 1), rules.bos_id, device=device),
        log_probs=torch.zeros(num_images, 1, device=device),
        state=state,
    )
    pool = empty_pool(num_images, num_best, rules.max_length, device)
    longest = (rules.max_length + 1) ** length_penalty
    for num_words in range(rules.max_length + 1):
        candidates, state = extend(step, live, rules, 2 * beam_size)
        ended = candidates.log_probs.masked_fill(candidates.words != rules.eos_id, -torch.inf)[:, :beam_size]
        pool = keep_best(pool, live.tokens, candidates.parents[:, :beam_size], ended, length_penalty)
        if num_words == rules.max_length:
            break
        live = advance(live, candidates, state, rules.eos_id, beam_size)
        best_to_come = live.log_probs[:, 0] / longest  # (B,) log-probabilities only fall, and are negative
        if all_settled(best_to_come <= pool.scores[:, -1], num_words + 1):
            break

    found = pool.scores > -torch.inf
    finished = read_hypotheses(pool.words, pool.lengths, pool.log_probs, pool.scores, found)
    unfinished = read_live(live, num_best, length_penalty)
    return [done or cut_off or [SILENCE] for done, cut_off in zip(finished, unfinished, strict=True)]


class Live(NamedTuple):
    """Prefixes that are still being extended, best first; all of one length.

    Attributes:
        tokens: (B, K, 1 + t) the begin word and the words so far.
        log_probs: (B, K), -inf where an image has fewer than K possible prefixes.
        state: the decoder's, (B, K, ...), before the last token is read.
    """

    tokens: Tensor
    log_probs: Tensor
    state: State


class Candidates(NamedTuple):
    """The likeliest prefixes of one word more (C of them), best first; the end word is a word here.

    Attributes:
        log_probs: (B, C).
        parents: (B, C) the live prefix that each extends.
        words: (B, C) the word that it adds.
    """

    log_probs: Tensor
    parents: Tensor
    words: Tensor


class Pool(NamedTuple):
    """The N best finished captions of each image so far, best first; free places score -inf.

    Attributes:
        words: (B, N, T) without begin and end word; the first `lengths` count.
        lengths: (B, N) number of words.
        log_probs: (B, N) end word included.
        scores: (B, N).
    """

    words: Tensor
    lengths: Tensor
    log_probs: Tensor
    scores: Tensor


def empty_pool(num_images: int, num_best: int, max_length: int, device: torch.device) -> Pool:
    """A pool of free places."""
    words = torch.zeros(num_images, num_best, max_length, dtype=torch.long, device=device)
    nothing = torch.full((num_images, num_best), -torch.inf, device=device)
    return Pool(words, torch.zeros_like(words[..., 0]), log_probs=nothing, scores=nothing)


def extend(step: Step, live: Live, rules: Rules, num_candidates: int) -> tuple[Candidates, State]:
    """Take one step; the likeliest extensions of the live prefixes, and the (B, K, ...) state after it."""
    logits, state = step(live.tokens[:, :, -1], live.state)
    log_probs = live.log_probs[..., None] + rules.log_probs(logits, live.tokens[:, :, 1:])  # (B, K, V)
    num_words = log_probs.shape[-1]
    log_probs = log_probs.flatten(1)  # (B, K * V)
    best, index = log_probs.topk(min(num_candidates, log_probs.shape[1]))
    return Candidates(best, parents=index // num_words, words=index % num_words), state


def keep_best(pool: Pool, tokens: Tensor, parents: Tensor, log_probs: Tensor, length_penalty: float) -> Pool:
    """Let newly finished captions compete for the pool's places.

    Args:
        pool: N places per image.
        tokens: (B, K, 1 + t) the live prefixes.
        parents: (B, E) the prefixes that the end word finishes.
        log_probs: (B, E) of the captions, end word included; -inf where there is none.
        length_penalty: see `beam_search`.
    """
    num_best, max_length = pool.words.shape[1:]
    num_words = tokens.shape[-1] - 1
    words = F.pad(select(tokens[:, :, 1:], parents), (0, max_length - num_words))  # (B, E, T)
    scores = torch.cat([pool.scores, log_probs / (num_words + 1) ** length_penalty], dim=1)  # (B, N + E)
    # stable: a newcomer that only equals a place's holder leaves it there, so a settled image never changes
    scores, places = scores.sort(dim=1, descending=True, stable=True)
    places = places[:, :num_best]
    return Pool(
        words=select(torch.cat([pool.words, words], dim=1), places),
        lengths=select(torch.cat([pool.lengths, torch.full_like(parents, num_words)], dim=1), places),
        log_probs=select(torch.cat([pool.log_probs, log_probs], dim=1), places),
        scores=scores[:, :num_best],
    )


def advance(live: Live, candidates: Candidates, state: State, eos_id: int, beam_size: int) -> Live:
    """The best candidates that do not end become the live prefixes, and the state follows them."""
    log_probs = candidates.log_probs.masked_fill(candidates.words == eos_id, -torch.inf)
    log_probs, chosen = log_probs.sort(dim=1, descending=True, stable=True)
    chosen = chosen[:, :beam_size]
    parents, words = select(candidates.parents, chosen), select(candidates.words, chosen)
    return Live(
        tokens=torch.cat([select(live.tokens, parents), words[..., None]], dim=-1),
        log_probs=log_probs[:, :beam_size],
        state={name: select(tensor, parents) for name, tensor in state.items()},
    )


def select(tensor: Tensor, index: Tensor) -> Tensor:
    """Rows of each image, in another order: (B, K, ...) by (B, N) gives (B, N, ...)."""
    images = torch.arange(len(index), device=index.device)[:, None]
    return tensor[images, index]


def read_live(live: Live, num_best: int, length_penalty: float) -> list[list[Hypothesis]]:
    """The best live prefixes as unfinished hypotheses; their length counts no end word."""
    words, log_probs = live.tokens[:, :num_best, 1:], live.log_probs[:, :num_best]
    lengths = torch.full_like(words[..., 0], words.shape[-1])
    scores = log_probs / words.shape[-1] ** length_penalty
    return read_hypotheses(words, lengths, log_probs, scores, torch.zeros_like(lengths, dtype=torch.bool))
