"""What any caption must obey, whichever search finds it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

MAX_WORDS = 100_000
"""Words of a caption: more are a slip, and would take all memory."""


class Constraint(ABC):
    """Something that every caption must obey; `Rules` takes any number of them.

    Subclasses say which words may not come next. One that also asks for something to be there has a `goal` and
    reports `progress` towards it, by which beam search spreads its beams.
    """

    @abstractmethod
    def forbidden(self, words: Tensor, vocab_size: int, rules: Rules) -> Tensor:
        """The words that may not come next.

        Args:
            words: (B, K, t) the words so far, without the begin word. Those of a sequence that has ended do not matter.
            vocab_size: V.
            rules: those that the constraint is part of.

        Returns:
            (B, K, V) bool; a new tensor.
        """

    def conflict(self, rules: Rules) -> str | None:
        """Why no caption can obey both this and the rest of the rules, as far as that can be seen; None if one can."""
        return None

    @property
    def goal(self) -> int:
        """The most that `progress` reports; 0 for a constraint that asks for nothing to be there."""
        return 0

    def progress(self, words: Tensor, vocab_size: int, rules: Rules) -> Tensor:
        """How far, from 0 to `goal`, a caption would be after each next word; the end word changes nothing.

        Args:
            words: (B, K, t) the words so far.
            vocab_size: V.
            rules: those that the constraint is part of.

        Returns:
            (B, K, V) integers.
        """
        return words.new_zeros(*words.shape[:2], vocab_size)


@dataclass(frozen=True)
class Rules:
    """The special words of a vocabulary, the lengths a caption may have, and further constraints.

    Attributes:
        bos_id: the begin word: what a decoder reads first.
        eos_id: the end word: what finishes a caption.
        never: ids that no caption may hold (padding, begin, unknown; more if one likes).
        min_length: words that come before the end word, at least. 0 allows the empty caption.
        max_length: words, at most, the end word not counted. A caption of `max_length` words may still
            be finished by the end word; where the search prefers another word, it is cut off there
            and stays unfinished.
        constraints: what else captions must obey, all at once.

    Raises:
        ValueError: when no caption could obey these rules.
    """

    bos_id: int
    eos_id: int
    never: tuple[int, ...]
    min_length: int = 1
    max_length: int = 30
    constraints: tuple[Constraint, ...] = ()

    def __post_init__(self) -> None:
        """Refuse rules that no caption can obey."""
        if not 0 <= self.min_length <= self.max_length or self.max_length < 1:
            raise ValueError(
                f"min_length={self.min_length} and max_length={self.max_length} leave no caption: "
                "choose 0 <= min_length <= max_length, and max_length at least 1"
            )
        if self.max_length > MAX_WORDS:
            raise ValueError(f"max_length={self.max_length} must be {MAX_WORDS:,} at most")
        if self.eos_id in self.never:
            raise ValueError(f"never={self.never} holds the end word, eos_id={self.eos_id}: take it out")
        for constraint in self.constraints:
            if (conflict := constraint.conflict(self)) is not None:
                raise ValueError(f"no caption can obey these rules: {conflict}")

    def log_probs(self, logits: Tensor, words: Tensor) -> Tensor:
        """Log-probabilities of the next word, -inf where the rules forbid it.

        They are the model's own, over its full vocabulary and in float32; what is forbidden is struck out
        afterwards and the rest is not renormalised. So a caption's sum is what teacher forcing gives.

        Args:
            logits: (B, K, V) of the next word.
            words: (B, K, t) the words so far, without the begin word.

        Returns:
            (B, K, V) float32.
        """
        log_probs = logits.log_softmax(dim=-1, dtype=torch.float32)
        for word in self.never:
            log_probs[..., word] = -torch.inf
        if words.shape[-1] < self.min_length:
            log_probs[..., self.eos_id] = -torch.inf
        for constraint in self.constraints:
            log_probs.masked_fill_(constraint.forbidden(words, logits.shape[-1], self), -torch.inf)
        return log_probs

    @property
    def goal(self) -> int:
        """How far the constraints that ask for something to be there can be met in all; 0 without such."""
        return sum(constraint.goal for constraint in self.constraints)

    def progress(self, words: Tensor, vocab_size: int) -> Tensor:
        """How far towards `goal` a caption would be after each next word: (B, K, t) words to (B, K, V) integers."""
        asking = [constraint for constraint in self.constraints if constraint.goal]
        progress = words.new_zeros(*words.shape[:2], vocab_size)
        for constraint in asking:
            progress = progress + constraint.progress(words, vocab_size, self)
        return progress
