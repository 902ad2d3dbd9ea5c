"""Beam search: the best few prefixes of every image, side by side, and the best captions they end in."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from captioner.decoding.common import MAX_SEQUENCES, Lookout, best_distinct, start_sizes
from captioner.decoding.rules import Rules
from captioner.types import Found, State, Step

MAX_LENGTH_PENALTY = 50
"""Past it a long caption's length, raised to it, would be no number; 1 is a mean already."""


@torch.no_grad()
def beam_search(
    step: Step,
    state: State,
    rules: Rules,
    beam_size: int = 5,
    num_best: int = 1,
    length_penalty: float = 0.0,
    num_groups: int = 1,
    diversity: float = 0.0,
) -> Found:
    """Find the captions of the highest score among those that the best few prefixes lead to.

    score = log_prob / length ** length_penalty, where length counts the end word (the plain form in Wu et
    al. 2016, arXiv 1609.08144, section 7, which names 0.6 to 0.7 as usually best for translation).

    At each step the K live prefixes of an image make K * V candidates, ranked by log-probability. Those among
    the best K that end in the end word are finished; the best K of the others live on, so that endings
    never narrow the beam. An image's search is over when no live prefix, were its words to come free up to
    `max_length`, could beat the worst caption that it would return: stopping early changes no result.
    With `length_penalty` 0 a beam of 1 is greedy search; a beam as wide as the space is exhaustive search.

    Constraints that ask for words (`Rules.goal`) make banks of candidates, by how many of the words they have. Places
    go to the banks in turn, each bank's best first, and in each turn to the likelier banks first, so that prefixes
    which took a required word early need not beat those that put it off (banks: Anderson et al. 2017, arXiv 1612.00576;
    one beam shared among them: Post and Vilar 2018, arXiv 1804.06609). The beam should be wider than the words asked
    for.

    Groups (diverse beam search with Hamming diversity, Vijayakumar et al. 2018, arXiv 1610.02424) are beams of
    beam_size / num_groups prefixes each. They take each step one after another, and a candidate is ranked `diversity`
    lower for each prefix of an earlier group that took the same word at this step; the ranking alone is changed, never
    a log-probability, and endings cost nothing, so that captions need not differ in length. The groups' captions are
    merged by score.

    Args:
        step: one word further (see `captioner.types.Step`).
        state: (B, 1, ...) before the first word.
        rules: what captions must obey.
        beam_size: K, live prefixes per image, of all groups together.
        num_best: captions wanted per image, `beam_size` at most.
        length_penalty: 0 ranks by log-probability, which favours short captions; 1 by the mean
            log-probability of a word. Never negative.
        num_groups: G, a divisor of `beam_size`.
        diversity: in units of log-probability; 0 or more.

    Returns:
        1 to `num_best` different captions of each image, best first: as many as have finished or, when none has, the
        best unfinished ones: of `max_length` words, or as far as one could get where no word was possible.

    Raises:
        ValueError: for sizes, a penalty or a diversity outside these bounds, or a state of several sequences per image.
    """
    num_images, device = start_sizes(state)
    if not 1 <= num_best <= beam_size:
        raise ValueError(f"num_best={num_best} must lie between 1 and beam_size={beam_size}")
    check_beams(beam_size, length_penalty, num_groups, diversity)

    beams = Beams(beam_size // num_groups, num_groups, diversity)
    live = Live(
        tokens=torch.full((num_images * num_groups, 1, 1), rules.bos_id, device=device),
        log_probs=torch.zeros(num_images * num_groups, 1, device=device),
        state={name: tensor.expand(-1, num_groups, *tensor.shape[2:]) for name, tensor in state.items()},
    )
    finished = unfinished = empty_pool(num_images * num_groups, num_best, rules.max_length, device)
    longest = (rules.max_length + 1) ** length_penalty
    lookout = Lookout()
    for num_words in range(rules.max_length + 1):
        candidates, state = extend(step, live, rules, beams)
        ended = candidates.log_probs.masked_fill(candidates.words != rules.eos_id, -torch.inf)[:, : beams.size]
        words = select(live.tokens[:, :, 1:], candidates.parents[:, : beams.size])  # (B * G, K', t)
        finished = keep_best(finished, words, ended, (num_words + 1) ** length_penalty)
        if num_words == rules.max_length:
            break
        before, live = live, advance(live, candidates, state, rules.eos_id, beams)
        stuck = before.log_probs.masked_fill(live.log_probs[:, :1] > -torch.inf, -torch.inf)
        unfinished = keep_best(unfinished, before.tokens[:, :, 1:], stuck, max(1, num_words) ** length_penalty)
        best_to_come = live.log_probs[:, 0] / longest  # (B * G,) log-probabilities only fall, and are negative
        if lookout.sees_the_end(best_to_come <= finished.scores[:, -1]):
            break

    words = live.tokens[:, :, 1:]
    unfinished = keep_best(unfinished, words, live.log_probs, words.shape[-1] ** length_penalty)
    done, cut_off = read_pool(finished, num_groups, True), read_pool(unfinished, num_groups, False)
    none = (done.log_probs == -torch.inf).all(dim=1, keepdim=True)  # (B, 1)
    cut_off = cut_off._replace(log_probs=cut_off.log_probs.masked_fill(~none, -torch.inf))
    both = Found(*(torch.cat(pair, dim=1) for pair in zip(done, cut_off, strict=True)))
    return best_distinct(both, num_best)


def check_beams(beam_size: int, length_penalty: float, num_groups: int, diversity: float) -> None:
    """Refuse sizes and strengths that make no beam search."""
    if not 1 <= beam_size <= MAX_SEQUENCES:
        raise ValueError(f"beam_size={beam_size} must be 1 or more, and {MAX_SEQUENCES:,} at most")
    if not 0 <= length_penalty <= MAX_LENGTH_PENALTY:  # also false for NaN
        raise ValueError(
            f"length_penalty={length_penalty} must be 0 (no normalisation) or more, and {MAX_LENGTH_PENALTY} at most"
        )
    if num_groups < 1 or beam_size % num_groups:
        raise ValueError(f"num_groups={num_groups} must divide beam_size={beam_size}: all groups are of one size")
    if not (diversity >= 0 and math.isfinite(diversity)):
        raise ValueError(f"diversity={diversity} must be 0 (groups do not look at one another) or more, and finite")


class Beams(NamedTuple):
    """How an image's prefixes are laid out: in G groups of K' = `size`, which make up K.

    For most of the search each group of each image is a row of its own, (B * G, K', ...); the decoder and the rules see
    an image's groups side by side, (B, K, ...).
    """

    size: int
    num_groups: int
    diversity: float

    def side_by_side(self, tensor: Tensor) -> Tensor:
        """(B * G, K', ...) to (B, G * K', ...)."""
        return tensor.unflatten(0, (len(tensor) // self.num_groups, self.num_groups)).flatten(1, 2)

    def in_groups(self, tensor: Tensor) -> Tensor:
        """(B, G * K', ...) to (B, G, K', ...)."""
        return tensor.unflatten(1, (self.num_groups, tensor.shape[1] // self.num_groups))


class Live(NamedTuple):
    """Prefixes that are still being extended, each group's best first; all of one length.

    Attributes:
        tokens: (B * G, K', 1 + t) the begin word and the words so far.
        log_probs: (B * G, K'), -inf where there are fewer than K' possible prefixes.
        state: the decoder's, (B, G * K', ...), before the last token is read.
    """

    tokens: Tensor
    log_probs: Tensor
    state: State


class Candidates(NamedTuple):
    """Prefixes of one word more (C of them per group), the preferred first; the end word is a word here.

    Attributes:
        log_probs: (B * G, C).
        parents: (B * G, C) the live prefix of the group that each extends.
        words: (B * G, C) the word that it adds.
    """

    log_probs: Tensor
    parents: Tensor
    words: Tensor


class Pool(NamedTuple):
    """The N best captions of each group so far, finished or not, best first; free places score -inf.

    Attributes:
        words: (B * G, N, T) without begin and end word; the first `lengths` count.
        lengths: (B * G, N) number of words.
        log_probs: (B * G, N) end word included, if it was reached.
        scores: (B * G, N).
    """

    words: Tensor
    lengths: Tensor
    log_probs: Tensor
    scores: Tensor


def empty_pool(num_rows: int, num_best: int, max_length: int, device: torch.device) -> Pool:
    """A pool of free places."""
    words = torch.zeros(num_rows, num_best, max_length, dtype=torch.long, device=device)
    nothing = torch.full((num_rows, num_best), -torch.inf, device=device)
    return Pool(words, torch.zeros_like(words[..., 0]), log_probs=nothing, scores=nothing)


def extend(step: Step, live: Live, rules: Rules, beams: Beams) -> tuple[Candidates, State]:
    """Take one step; each group's preferred extensions, and the (B, K, ...) state after it."""
    tokens = beams.side_by_side(live.tokens)  # (B, K, 1 + t)
    logits, state = step(tokens[:, :, -1], live.state)
    log_probs = beams.side_by_side(live.log_probs)[..., None] + rules.log_probs(logits, tokens[:, :, 1:])  # (B, K, V)
    progress = rules.progress(tokens[:, :, 1:], logits.shape[-1]) if rules.goal else torch.zeros_like(tokens[..., :1])
    log_probs, progress = beams.in_groups(log_probs), beams.in_groups(progress)  # (B, G, K', V), (B, G, K', V or 1)

    groups: list[Candidates] = []
    times_taken = torch.zeros_like(log_probs[:, 0, 0])  # (B, V) by the earlier groups
    for group in range(beams.num_groups):
        own = log_probs[:, group]  # (B, K', V)
        ranks = own - beams.diversity * times_taken[:, None] if group else own
        groups.append(preferred(own, ranks, progress[:, group], rules.goal, 2 * beams.size))
        chosen = going_on(groups[-1], rules.eos_id, beams.size)  # (B, K')
        possible = select(groups[-1].log_probs, chosen) > -torch.inf
        times_taken = times_taken.scatter_add(1, select(groups[-1].words, chosen), possible.to(times_taken.dtype))
    return Candidates(*(torch.stack(part, dim=1).flatten(0, 1) for part in zip(*groups, strict=True))), state


def preferred(log_probs: Tensor, ranks: Tensor, progress: Tensor, goal: int, num_candidates: int) -> Candidates:
    """The best candidates of one group.

    Args:
        log_probs: (B, K', V) the model's own.
        ranks: (B, K', V) what to prefer candidates by.
        progress: (B, K', V) the bank that each belongs to, 0 to `goal`; not looked at where there is one bank.
        goal: the number of banks, less one.
        num_candidates: C, how many to return; fewer if there are fewer.
    """
    vocab_size = ranks.shape[-1]
    ranks = ranks.flatten(1)  # (B, K' * V)
    num_candidates = min(num_candidates, ranks.shape[1])
    if goal == 0:
        best, index = ranks.topk(num_candidates)
    else:
        best, index = by_turns(ranks, progress.flatten(1), goal, num_candidates)
    found = log_probs.flatten(1).gather(1, index).masked_fill(best == -torch.inf, -torch.inf)
    return Candidates(found, parents=index // vocab_size, words=index % vocab_size)


def by_turns(ranks: Tensor, banks: Tensor, goal: int, num_candidates: int) -> tuple[Tensor, Tensor]:
    """The best C of N candidates when the banks take turns: each one's best, then each one's second, and so on.

    Args:
        ranks: (B, N), -inf for what is impossible.
        banks: (B, N), 0 to `goal`.
        goal: the number of banks, less one.
        num_candidates: C.

    Returns:
        (B, C) ranks, and (B, C) which candidates they are of.
    """
    each = [ranks.masked_fill(banks != bank, -torch.inf).topk(num_candidates) for bank in range(goal + 1)]
    best, order = torch.stack([found.values for found in each], dim=-1).sort(dim=-1, descending=True, stable=True)
    index = torch.stack([found.indices for found in each], dim=-1).gather(-1, order)
    best, index = best.flatten(1), index.flatten(1)  # (B, C * banks), turn by turn
    possible_first = (best == -torch.inf).int().argsort(dim=1, stable=True)[:, :num_candidates]
    return best.gather(1, possible_first), index.gather(1, possible_first)


def keep_best(pool: Pool, words: Tensor, log_probs: Tensor, divisor: float) -> Pool:
    """Let newcomers compete for the pool's places.

    Args:
        pool: N places per group.
        words: (B * G, E, t).
        log_probs: (B * G, E) of the captions; -inf where there is none.
        divisor: what makes scores of log-probabilities.
    """
    num_best, max_length = pool.words.shape[1:]
    num_words = words.shape[-1]
    words = F.pad(words, (0, max_length - num_words))  # (B * G, E, T)
    lengths = torch.full_like(words[..., 0], num_words)
    scores = torch.cat([pool.scores, log_probs / divisor], dim=1)  # (B * G, N + E)
    # stable: a newcomer that only equals a place's holder leaves it there, so a settled image never changes
    scores, places = scores.sort(dim=1, descending=True, stable=True)
    places = places[:, :num_best]
    return Pool(
        words=select(torch.cat([pool.words, words], dim=1), places),
        lengths=select(torch.cat([pool.lengths, lengths], dim=1), places),
        log_probs=select(torch.cat([pool.log_probs, log_probs], dim=1), places),
        scores=scores[:, :num_best],
    )


def going_on(candidates: Candidates, eos_id: int, size: int) -> Tensor:
    """Which candidates live on: (B, K') places of the preferred ones that do not end."""
    return (candidates.words == eos_id).int().argsort(dim=1, stable=True)[:, :size]


def advance(live: Live, candidates: Candidates, state: State, eos_id: int, beams: Beams) -> Live:
    """The preferred candidates that do not end become the live prefixes, and the state follows them."""
    chosen = going_on(candidates, eos_id, beams.size)
    log_probs = select(candidates.log_probs.masked_fill(candidates.words == eos_id, -torch.inf), chosen)
    log_probs, order = log_probs.sort(dim=1, descending=True, stable=True)
    chosen = select(chosen, order)
    parents, words = select(candidates.parents, chosen), select(candidates.words, chosen)  # (B * G, K')

    group = torch.arange(len(parents), device=parents.device)[:, None] % beams.num_groups
    beside = beams.side_by_side(parents + group * live.tokens.shape[1])  # (B, K), of all the image's prefixes
    return Live(
        tokens=torch.cat([select(live.tokens, parents), words[..., None]], dim=-1),
        log_probs=log_probs,
        state={name: select(tensor, beside) for name, tensor in state.items()},
    )


def select(tensor: Tensor, index: Tensor) -> Tensor:
    """Rows of each image, in another order: (B, K, ...) by (B, N) gives (B, N, ...)."""
    images = torch.arange(len(index), device=index.device)[:, None]
    return tensor[images, index]


def read_pool(pool: Pool, num_groups: int, finished: bool) -> Found:
    """The captions of each image, of its groups one after another."""
    ended = torch.full_like(pool.lengths, finished, dtype=torch.bool)
    found = Found(pool.words, pool.lengths, pool.log_probs, pool.scores, ended)
    return Found(*(tensor.unflatten(0, (-1, num_groups)).flatten(1, 2) for tensor in found))
