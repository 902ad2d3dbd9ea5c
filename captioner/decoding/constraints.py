"""What captions must hold or must not hold: constraints, for every search and together with one another.

A constraint only strikes out next words. It reads them off the words so far, (B, K, t), and keeps no state, so it
need not follow beams around. It strikes out a word only where no caption that obeys it could come after.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from captioner.decoding.phrases import UNREACHABLE, Automaton, Phrase, automaton, ends_in, ends_of, phrase_table
from captioner.decoding.rules import Constraint, Rules

MAX_REQUIRED = 10  # phrases: the automaton has a state for each of their 2 ** 10 subsets


@dataclass(frozen=True)
class NoRepeatedNgrams(Constraint):
    """No run of `size` words comes twice (the rule of Paulus et al. 2017, arXiv 1705.04304, section 2.5, for trigrams).

    The end word is no part of a run.

    Attributes:
        size: n, words; 1 lets no word come twice.
    """

    size: int

    def __post_init__(self) -> None:
        """Refuse runs of no words."""
        if self.size < 1:
            raise ValueError(f"size={self.size} of n-grams that are not to be repeated: choose 1 or more")

    def forbidden(self, words: Tensor, vocab_size: int, rules: Rules) -> Tensor:
        """The words that followed earlier on what the caption ends in."""
        if words.shape[-1] < self.size:
            return words.new_zeros(*words.shape[:2], vocab_size, dtype=torch.bool)
        runs = words.unfold(-1, self.size, 1)  # (B, K, t - n + 1, n)
        begun = words[..., None, words.shape[-1] - self.size + 1 :]  # (B, K, 1, n - 1)
        return marked(runs[..., -1], (runs[..., :-1] == begun).all(dim=-1), vocab_size)


@dataclass(frozen=True)
class ForbiddenWords(Constraint):
    """Words and phrases that no caption holds.

    Attributes:
        phrases: word ids; `(7,)` for one word.
    """

    phrases: tuple[Phrase, ...]

    def __post_init__(self) -> None:
        """Refuse what is not a collection of phrases."""
        object.__setattr__(self, "phrases", checked(self.phrases, "phrases"))

    def conflict(self, rules: Rules) -> str | None:
        """Phrases are of words."""
        return end_word_in(self.phrases, rules)

    def forbidden(self, words: Tensor, vocab_size: int, rules: Rules) -> Tensor:
        """The last word of each phrase, where the caption ends in the words before it."""
        return completing(words, self.phrases, vocab_size)


@dataclass(frozen=True)
class NoBadEndings(Constraint):
    """Words and phrases that no caption ends in, such as "a", "of" or "with the"; they may stand elsewhere.

    A caption that is cut off at `max_length` does not end in them either.

    Attributes:
        endings: word ids; `(7,)` for one word.
    """

    endings: tuple[Phrase, ...]

    def __post_init__(self) -> None:
        """Refuse what is not a collection of phrases."""
        object.__setattr__(self, "endings", checked(self.endings, "endings"))

    def conflict(self, rules: Rules) -> str | None:
        """Phrases are of words."""
        return end_word_in(self.endings, rules)

    def forbidden(self, words: Tensor, vocab_size: int, rules: Rules) -> Tensor:
        """The end word after an ending; at the last place, where nothing could follow, the ending itself."""
        if words.shape[-1] == rules.max_length - 1:
            forbidden = completing(words, self.endings, vocab_size)
        else:
            forbidden = words.new_zeros(*words.shape[:2], vocab_size, dtype=torch.bool)
        forbidden[..., rules.eos_id] = ends_in(words, self.endings).any(dim=-1)
        return forbidden


@dataclass(frozen=True)
class RequiredWords(Constraint):
    """Words and phrases that every caption holds, in any order; they may overlap.

    The end word is struck out until all are there. Where the words left until `max_length` are just enough for those
    still missing, all others are struck out, so that captions of any search hold them; the count takes `ForbiddenWords`
    and `NoBadEndings` into account, not `NoRepeatedNgrams`: beside that one, a search that does not look ahead can come
    to where no word is possible, and its caption stops there, unfinished. Beam search shares out its places by
    `progress`, the number of required words met, so that they need not wait for the end.

    An automaton over the words of all phrases and the set of those met does the counting (as in Anderson et al. 2017,
    arXiv 1612.00576).

    Attributes:
        phrases: word ids; `(7,)` for one word.
    """

    phrases: tuple[Phrase, ...]

    def __post_init__(self) -> None:
        """Refuse what is not a collection of phrases, and too many."""
        phrases = tuple(dict.fromkeys(checked(self.phrases, "phrases")))
        if len(phrases) > MAX_REQUIRED:
            raise ValueError(f"{len(phrases)} required phrases are too many: {MAX_REQUIRED} at most")
        object.__setattr__(self, "phrases", phrases)

    def conflict(self, rules: Rules) -> str | None:
        """They must be sayable and fit in."""
        if sum(isinstance(other, RequiredWords) for other in rules.constraints) > 1:
            return "there are several RequiredWords: put all phrases into one"
        for phrase in self.phrases:
            if not set(phrase).isdisjoint(rules.never):
                return f"the required phrase {phrase} holds a word of never={rules.never}"
            for other in rules.constraints:
                if isinstance(other, NoRepeatedNgrams) and repeats(phrase, other.size):
                    return f"the required phrase {phrase} repeats words that {other} lets come once"
        if (end_word := end_word_in(self.phrases, rules)) is not None:
            return end_word
        num_words = int(self._automaton(rules, torch.device("cpu")).missing[0])
        if num_words >= UNREACHABLE:
            return f"the required phrases {self.phrases} cannot all be said without a phrase that is forbidden"
        if num_words > rules.max_length:
            return (
                f"a caption with the required phrases {self.phrases} has {num_words} words or more, "
                f"over max_length={rules.max_length}"
            )
        return None

    def forbidden(self, words: Tensor, vocab_size: int, rules: Rules) -> Tensor:
        """The end word while phrases are missing, and words that would leave too little room for these."""
        table = self._automaton(rules, words.device)
        room = max(rules.max_length - words.shape[-1] - 1, 0)  # words that may follow the next one
        state = self._state(table, words)  # (B, K)
        check_known(table.nodes[1:], vocab_size)
        forbidden = by_word(table.missing[table.following[state]] > room, table.letters, vocab_size)
        forbidden[..., rules.eos_id] = table.missing[state] > 0
        return forbidden

    @property
    def goal(self) -> int:
        """The number of required words."""
        return sum(map(len, self.phrases))

    def progress(self, words: Tensor, vocab_size: int, rules: Rules) -> Tensor:
        """Words of the phrases met, and of the one that the caption is in the middle of."""
        table = self._automaton(rules, words.device)
        state = self._state(table, words)
        progress = by_word(table.progress[table.following[state]], table.letters, vocab_size)
        progress[..., rules.eos_id] = table.progress[state]
        return progress

    def _state(self, table: Automaton, words: Tensor) -> Tensor:
        """(B, K) states of the automaton after (B, K, t) words."""
        depth = torch.arange(len(table.nodes), device=words.device)  # nodes are in order of their length
        node = (ends_in(words, table.nodes) * depth).amax(dim=-1)
        bits = 2 ** torch.arange(len(self.phrases), device=words.device)
        met = (ends_of(words, self.phrases).any(dim=2) * bits).sum(dim=-1)
        return node * 2 ** len(self.phrases) + met

    def _automaton(self, rules: Rules, device: torch.device) -> Automaton:
        """The tables, with the phrases that the other constraints forbid."""
        forbidden = [
            phrase for other in rules.constraints if isinstance(other, ForbiddenWords) for phrase in other.phrases
        ]
        endings = [phrase for other in rules.constraints if isinstance(other, NoBadEndings) for phrase in other.endings]
        return automaton(self.phrases, tuple(forbidden), tuple(endings), device)


def checked(phrases: Iterable[Iterable[int]], name: str) -> tuple[Phrase, ...]:
    """Phrases as tuples of tuples; a ValueError for what is none."""
    try:
        found = tuple(tuple(phrase) for phrase in phrases)
    except TypeError:
        raise ValueError(f"{name}={phrases} must be tuples of word ids: ((7,),) for one phrase of one word") from None
    if not found:
        raise ValueError(f"{name} is empty: name a phrase, or leave the constraint out")
    for phrase in found:
        if not phrase:
            raise ValueError(f"{name}={found} holds a phrase of no words")
        if not all(isinstance(word, int) and word >= 0 for word in phrase):
            raise ValueError(f"{name}={found} must hold word ids, 0 or more: {phrase}")
    return found


def end_word_in(phrases: tuple[Phrase, ...], rules: Rules) -> str | None:
    """A complaint if a phrase holds the end word."""
    for phrase in phrases:
        if rules.eos_id in phrase:
            return f"the phrase {phrase} holds the end word, eos_id={rules.eos_id}: phrases are of words alone"
    return None


def repeats(phrase: Phrase, size: int) -> bool:
    """Whether a run of `size` words comes twice in a phrase."""
    runs = [phrase[start : start + size] for start in range(len(phrase) - size + 1)]
    return len(set(runs)) < len(runs)


def completing(words: Tensor, phrases: tuple[Phrase, ...], vocab_size: int) -> Tensor:
    """(B, K, V) bool: the words that would complete one of the phrases after (B, K, t) words."""
    begun = ends_in(words, tuple(phrase[:-1] for phrase in phrases))  # (B, K, P)
    last = phrase_table(tuple(phrase[-1:] for phrase in phrases), words.device)[:, 0]  # (P,)
    check_known(phrases, vocab_size)
    return marked(last.expand_as(begun), begun, vocab_size)


def marked(index: Tensor, chosen: Tensor, vocab_size: int) -> Tensor:
    """(B, K, V) bool: True for the words of (B, K, N) `index` where `chosen`, of the same shape, is True."""
    places = torch.where(chosen, index, vocab_size)  # the others fall into a column of their own
    columns = index.new_zeros(*index.shape[:2], vocab_size + 1, dtype=torch.bool)
    return columns.scatter(-1, places, True)[..., :vocab_size]


def by_word(values: Tensor, letters: Tensor, vocab_size: int) -> Tensor:
    """From (B, K, A + 1) values, for the A letters and for all other words, to (B, K, V)."""
    spread = values[..., -1:].repeat(1, 1, vocab_size)
    spread[..., letters] = values[..., :-1]
    return spread


def check_known(phrases: tuple[Phrase, ...], vocab_size: int) -> None:
    """Refuse ids that the vocabulary does not have."""
    for phrase in phrases:
        if max(phrase) >= vocab_size:
            raise ValueError(f"the phrase {phrase} holds an id that a vocabulary of {vocab_size} words does not have")
