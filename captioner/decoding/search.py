"""The searches as objects: what a config names, and what captions any decoder through its `step`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch

from captioner.decoding.beam import beam_search, check_beams
from captioner.decoding.common import best_distinct, start_sizes
from captioner.decoding.greedy import greedy_search
from captioner.decoding.rules import Rules
from captioner.decoding.sampling import check_sampling, sample
from captioner.types import Found, Hypothesis, State, Step


class Search(ABC):
    """A way to find captions. Subclasses are frozen dataclasses of plain arguments."""

    @property
    @abstractmethod
    def max_captions(self) -> int:
        """How many captions it can give for an image, at most."""

    @abstractmethod
    def search(self, step: Step, state: State, rules: Rules, num_best: int) -> Found:
        """Do what `find` promises, its arguments being checked."""

    def __call__(self, step: Step, state: State, rules: Rules, num_best: int = 1) -> list[list[Hypothesis]]:
        """Caption B images: what `find` finds, as lists of 1 to `num_best` captions."""
        return self.find(step, state, rules, num_best).hypotheses()

    def find(self, step: Step, state: State, rules: Rules, num_best: int = 1) -> Found:
        """Caption B images; what is found stays on their device.

        Args:
            step: one word further (see `captioner.types.Step`).
            state: (B, 1, ...) before the first word.
            rules: what captions must obey.
            num_best: captions wanted per image, `max_captions` at most.

        Returns:
            1 to `num_best` captions of different words for each image, best first: finished ones before unfinished
            ones, then by score. Log-probabilities are the model's own, whatever a search ranks or draws by.

        Raises:
            ValueError: too many captions wanted, a state that is empty or of several sequences per image.
        """
        if not 1 <= num_best <= self.max_captions:
            raise ValueError(
                f"num_best={num_best} must lie between 1 and {self.max_captions}, the most that {self} gives"
            )
        return self.search(step, state, rules, num_best)


@dataclass(frozen=True)
class GreedySearch(Search):
    """The likeliest word, step by step: one caption."""

    @property
    def max_captions(self) -> int:
        """One."""
        return 1

    def search(self, step: Step, state: State, rules: Rules, num_best: int) -> Found:
        """See `greedy_search`."""
        return greedy_search(step, state, rules)


@dataclass(frozen=True)
class BeamSearch(Search):
    """The best few prefixes side by side; see `beam_search`.

    Attributes:
        beam_size: prefixes per image.
        length_penalty: 0 ranks by log-probability, 1 by the mean log-probability of a word.
    """

    beam_size: int = 5
    length_penalty: float = 0.7

    def __post_init__(self) -> None:
        """Refuse what makes no beam search."""
        check_beams(self.beam_size, self.length_penalty, num_groups=1, diversity=0.0)

    @property
    def max_captions(self) -> int:
        """As many as there are beams."""
        return self.beam_size

    def search(self, step: Step, state: State, rules: Rules, num_best: int) -> Found:
        """See `beam_search`."""
        return beam_search(step, state, rules, self.beam_size, num_best, self.length_penalty)


@dataclass(frozen=True)
class DiverseBeamSearch(Search):
    """Groups of beams that keep away from one another's words; see `beam_search`.

    Attributes:
        beam_size: prefixes per image, of all groups together.
        num_groups: a divisor of `beam_size`.
        diversity: what a word costs in a group's ranking, in log-probability, for each prefix of an earlier group that
            took it at the same step (lambda in Vijayakumar et al. 2018, who find 0.2 to 0.8 to work well).
        length_penalty: 0 ranks by log-probability, 1 by the mean log-probability of a word.
    """

    beam_size: int = 6
    num_groups: int = 3
    diversity: float = 0.5
    length_penalty: float = 0.7

    def __post_init__(self) -> None:
        """Refuse what makes no beam search."""
        check_beams(self.beam_size, self.length_penalty, self.num_groups, self.diversity)

    @property
    def max_captions(self) -> int:
        """As many as there are beams."""
        return self.beam_size

    def search(self, step: Step, state: State, rules: Rules, num_best: int) -> Found:
        """See `beam_search`."""
        return beam_search(
            step,
            state,
            rules,
            self.beam_size,
            num_best,
            self.length_penalty,
            self.num_groups,
            self.diversity,
        )


@dataclass(frozen=True)
class Sampling(Search):
    """Captions drawn by their probability, the likeliest of them first; see `sample` and `word_weights`.

    The same seed gives an image the same captions at every call, alone or in any batch. Without a seed every image and
    every call has random numbers of its own, from torch's generator of the device: what rewards take.

    Attributes:
        num_samples: captions drawn per image; those of the same words are given once.
        temperature: what log-probabilities are divided by before drawing.
        top_k: draw from so many of the likeliest words.
        top_p: draw from the fewest of the likeliest words that together have this probability.
        seed: of the random numbers; None for new ones.
    """

    num_samples: int = 5
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int | None = 0

    def __post_init__(self) -> None:
        """Refuse what nothing can be drawn with."""
        check_sampling(self.num_samples, self.temperature, self.top_k, self.top_p)
        if self.seed is not None and not -(2**63) <= self.seed < 2**64:
            raise ValueError(f"seed={self.seed} must lie between -2**63 and 2**64 - 1, or be None for new numbers")

    @property
    def max_captions(self) -> int:
        """As many as are drawn."""
        return self.num_samples

    def search(self, step: Step, state: State, rules: Rules, num_best: int) -> Found:
        """See `sample`."""
        shared, generator = self.seed is not None, None
        if self.seed is not None:
            generator = torch.Generator(start_sizes(state)[1]).manual_seed(self.seed)
        drawn = sample(
            step, state, rules, generator, self.num_samples, self.temperature, self.top_k, self.top_p, shared
        )
        return best_distinct(drawn, num_best)
