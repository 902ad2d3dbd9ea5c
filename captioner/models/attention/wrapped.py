"""What attention shares that wraps a scorer: it changes where one looks, or what comes of it, and not the scores."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from torch import Tensor

from captioner.models.attention.base import Attention, Focus
from captioner.models.attention.normalisers import Normaliser
from captioner.types import Attended, Memory


class WrappedAttention(Attention, ABC):
    """Attention by another scorer; subclasses change what they are about.

    Args:
        feature_dim: D, the size of an annotation vector.
        query_dim: H, the size of a query.
        scorer: makes the scorer from (feature_dim, query_dim).
        normaliser: takes the place of the scorer's own, if given.
    """

    @abstractmethod  # subclasses choose the scorer that is there unless another is asked for
    def __init__(
        self,
        feature_dim: int,
        query_dim: int,
        scorer: Callable[[int, int], Attention],
        normaliser: Normaliser | None = None,
    ) -> None:
        built = scorer(feature_dim, query_dim)
        super().__init__(feature_dim, query_dim, normaliser or built.normaliser)
        self.scorer = built
        self.scorer.normaliser = self.normaliser
        self.rows_sum_to_1 = built.rows_sum_to_1
        self.num_heads = built.num_heads

    def require(self, memory: Memory) -> None:
        """See `Attention.require`: what the scorer refuses is refused, too."""
        super().require(memory)
        self.scorer.require(memory)

    def prepare(self, memory: Memory) -> Memory:
        """See `Attention.prepare`."""
        self.require(memory)
        return self.scorer.prepare(memory)

    def project(self, features: Tensor) -> Tensor:
        """See `Attention.project`."""
        return self.scorer.project(features)

    def ask(self, query: Tensor, memory: Memory) -> Tensor:
        """See `Attention.ask`."""
        return self.scorer.ask(query, memory)

    def own_keys(self, own: Tensor, memory: Memory) -> Tensor:
        """See `Attention.own_keys`."""
        return self.scorer.own_keys(own, memory)

    def score(self, query: Tensor, keys: Tensor) -> Tensor:
        """See `Attention.score`."""
        return self.scorer.score(query, keys)

    def focus(self, query: Tensor, memory: Memory, step: Tensor | None) -> Focus:
        """See `Attention.focus`."""
        return self.scorer.focus(query, memory, step)

    def attend(self, query: Tensor, memory: Memory, focus: Focus, sentinel: Tensor | None = None) -> Attended:
        """See `Attention.attend`."""
        return self.scorer.attend(query, memory, focus, sentinel)
