"""Finding phrases in the words so far, and counting the words that must still come."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Phrase = tuple[int, ...]
"""Word ids, one after another."""

NO_WORD = -1  # before the first word of a caption
ANY_WORD = -2  # before the first word of a phrase
UNREACHABLE = 10**6  # words


@lru_cache(maxsize=256)
def phrase_table(phrases: tuple[Phrase, ...], device: torch.device) -> Tensor:
    """Phrases as (P, n) ids, n of the longest (at least 1); the shorter ones stand on the right, after ANY_WORD."""
    longest = max(1, *map(len, phrases))
    rows = [(ANY_WORD,) * (longest - len(phrase)) + phrase for phrase in phrases]
    return torch.tensor(rows, device=device)


def ends_of(words: Tensor, phrases: tuple[Phrase, ...]) -> Tensor:
    """Where phrases end: (B, K, t) words to (B, K, t + 1, P) bool, at i whether the first i words end in the phrase."""
    table = phrase_table(phrases, words.device)  # (P, n)
    longest = table.shape[1]
    windows = F.pad(words, (longest, 0), value=NO_WORD).unfold(-1, longest, 1)  # (B, K, t + 1, n)
    return ((windows[..., None, :] == table) | (table == ANY_WORD)).all(dim=-1)


def ends_in(words: Tensor, phrases: tuple[Phrase, ...]) -> Tensor:
    """Which phrases (B, K, t) words end in: (B, K, P) bool. All end in the empty phrase."""
    longest = max(1, *map(len, phrases))
    return ends_of(words[..., -longest:], phrases)[:, :, -1]


class Automaton(NamedTuple):
    """What a caption has met of the required phrases, as a machine that reads word by word.

    Its S = N * 2 ** P states are pairs: a node, which is the longest prefix of any phrase that the words so far end in
    (Aho and Corasick 1975), and the set of required phrases met, a bit for each. State node * 2 ** P + set; 0 is the
    empty caption.

    Attributes:
        nodes: the N prefixes, shortest first.
        letters: (A,) the words of all phrases.
        following: (S, A + 1) the state after each letter and, last, after any other word.
        missing: (S,) words that must come at least before the caption may end; UNREACHABLE where it never may.
        progress: (S,) required words met, those of a phrase that the words so far end in the middle of among them.
    """

    nodes: tuple[Phrase, ...]
    letters: Tensor
    following: Tensor
    missing: Tensor
    progress: Tensor


@lru_cache(maxsize=64)
def automaton(
    required: tuple[Phrase, ...], forbidden: tuple[Phrase, ...], endings: tuple[Phrase, ...], device: torch.device
) -> Automaton:
    """The automaton of required phrases, beside forbidden ones and bad endings.

    Of these two it takes in those that end in a required word: instead of another word, any will do.
    """
    required_words = {word for phrase in required for word in phrase}
    forbidden = tuple(phrase for phrase in forbidden if phrase[-1] in required_words)
    endings = tuple(phrase for phrase in endings if phrase[-1] in required_words)
    phrases = required + forbidden + endings
    prefixes = {phrase[:size] for phrase in phrases for size in range(len(phrase) + 1)}
    nodes = tuple(sorted(prefixes, key=lambda prefix: (len(prefix), prefix)))
    places = {node: place for place, node in enumerate(nodes)}
    letters = sorted({word for phrase in phrases for word in phrase})
    next_node = torch.tensor([[places[longest_end((*node, word), prefixes)] for word in letters] for node in nodes])
    next_node = F.pad(next_node, (0, 1))  # (N, A + 1), node 0 is the empty prefix

    bits = torch.tensor([[ends(node, phrase) << bit for bit, phrase in enumerate(required)] for node in nodes])
    gained = bits.sum(dim=1)  # (N,) the set of phrases that end here
    sets = torch.arange(2 ** len(required))  # (M,)
    following = next_node[:, None] * len(sets) + (sets[:, None] | gained[next_node][:, None])  # (N, M, A + 1)

    dead = torch.tensor([any(ends(node, phrase) for phrase in forbidden) for node in nodes])
    may_end = torch.tensor([not any(ends(node, phrase) for phrase in endings) for node in nodes])
    finished = (may_end & ~dead)[:, None] & (sets == len(sets) - 1)  # (N, M)
    following = following.flatten(0, 1)
    missing = distances(following, finished.flatten(), dead.repeat_interleave(len(sets)))
    progress = met_words(nodes, required, sets).flatten()
    tables = (torch.tensor(letters), following, missing, progress)
    return Automaton(nodes, *(table.to(device) for table in tables))


def distances(following: Tensor, finished: Tensor, dead: Tensor) -> Tensor:
    """Words on the shortest way from each state to a finished one, past no dead one.

    Args:
        following: (S, A + 1) states.
        finished: (S,) bool.
        dead: (S,) bool.

    Returns:
        (S,) integers.
    """
    far = torch.full(finished.shape, UNREACHABLE)
    found = far.masked_fill(finished, 0)
    while True:
        nearer = torch.minimum(found, found[following].amin(dim=-1) + 1).where(~dead, far)
        if torch.equal(nearer, found):
            return found
        found = nearer


def met_words(nodes: tuple[Phrase, ...], required: tuple[Phrase, ...], sets: Tensor) -> Tensor:
    """(N, M) required words met at each node, for each set of phrases met."""
    met = torch.zeros(len(nodes), len(sets), dtype=torch.long)
    begun = torch.zeros_like(met)
    for bit, phrase in enumerate(required):
        holds = (sets >> bit & 1).bool()  # (M,)
        inside = [max(size for size in range(len(phrase)) if ends(node, phrase[:size])) for node in nodes]
        met += holds * len(phrase)
        begun = torch.maximum(begun, ~holds * torch.tensor(inside)[:, None])
    return met + begun


def longest_end(words: Phrase, prefixes: set[Phrase]) -> Phrase:
    """The longest of the prefixes that words end in; the empty one is among them."""
    return next(words[start:] for start in range(len(words) + 1) if words[start:] in prefixes)


def ends(words: Phrase, phrase: Phrase) -> bool:
    """Whether words end in a phrase."""
    return len(phrase) <= len(words) and words[len(words) - len(phrase) :] == phrase
