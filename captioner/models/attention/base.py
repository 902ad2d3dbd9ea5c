"""What attention is: a query looks at a memory and gets a weighted mean of its annotation vectors back.

A new scorer is one class: `project` makes the keys once per image, `score` compares queries with them, and `ask` may
make queries ready for that. The rest (padding, the normaliser, the mean, a sentinel's place in it) is here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from captioner.models.attention.normalisers import Normaliser, Softmax
from captioner.types import Attended, Kind, Memory
from captioner.types.limits import require_sizes

AUTOCAST = frozenset(kind for kind in ("cpu", "cuda", "mps", "xpu") if torch.amp.is_autocast_available(kind))
"""Kinds of devices that have autocast; asked for here, as the compiler of some versions of torch cannot."""

NOT_PREPARED = "the memory has no keys of this attention: call the decoder's prepare(memory) first"


class Focus(NamedTuple):
    """Which locations a query may look at.

    Attributes:
        within: (B, K or 1, L) bool, True where it may look; True somewhere in every row.
        factor: (B, K, L) what the weights are multiplied by after the normaliser; None leaves them as they are.
    """

    within: Tensor
    factor: Tensor | None = None


class Attention(nn.Module, ABC):
    """Soft attention over a memory: normalised scores, then a weighted mean.

    Subclasses say how a query and a key make a score, with the constructor arguments (feature_dim, query_dim) first.

    Args:
        feature_dim: D, the size of an annotation vector.
        query_dim: H, the size of a query.
        normaliser: turns scores into weights; softmax by default.

    Raises:
        ValueError: an impossible size.

    Attributes:
        kinds: the kinds of memory that it is defined for; all, unless a subclass says otherwise.
        single_segment: whether it is defined over a memory of one segment alone, as is all that counts locations.
        rows_sum_to_1: whether the rows of alpha do, with the sentinel's weight where there is one.
        num_heads: how many heads look at the memory.
    """

    kinds: ClassVar[Sequence[Kind]] = tuple(Kind)
    single_segment: ClassVar[bool] = False
    rows_sum_to_1: bool = True
    num_heads: int = 1

    def __init__(self, feature_dim: int, query_dim: int, normaliser: Normaliser | None = None) -> None:
        super().__init__()
        require_sizes(feature_dim=feature_dim, query_dim=query_dim)
        self.feature_dim = feature_dim
        self.query_dim = query_dim
        self.normaliser = normaliser or Softmax()

    @abstractmethod
    def project(self, features: Tensor) -> Tensor:
        """Project annotation vectors (..., D) to keys (..., A), once per image."""

    @abstractmethod
    def score(self, query: Tensor, keys: Tensor) -> Tensor:
        """Score queries that were made ready (B, K, ...) against keys (B, L, A); returns (B, K, L)."""

    def ask(self, query: Tensor, memory: Memory) -> Tensor:
        """Make queries (B, K, H) ready to be scored, once per look; here they are so already."""
        return query

    def own_keys(self, own: Tensor, memory: Memory) -> Tensor:
        """The keys (B, K, A) of annotation vectors (B, K, D) that are not in the memory, one of each sequence."""
        return self.project(own)

    def require(self, memory: Memory) -> None:
        """Refuse a memory that this attention is not defined for.

        Raises:
            ValueError: such a memory.
        """
        for segment in memory.segments:
            if segment.kind not in self.kinds:
                raise ValueError(
                    f"{type(self).__name__} is not defined over {segment.kind.value}, only over "
                    f"{' and '.join(kind.value for kind in self.kinds)}: choose another attention"
                )
        if self.single_segment and len(memory.segments) > 1:
            raise ValueError(
                f"{type(self).__name__} is not defined over several memories at once "
                f"({' and '.join(kind.value for kind in memory.kinds)}), only over one: choose another attention"
            )

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile, in place, what gains by it beside matrix products; for the arguments see `torch.compile`.

        That is nothing, unless a subclass says otherwise.
        """

    def prepare(self, memory: Memory) -> Memory:
        """The memory with its keys, and its features in the format of products (one cast here, not one per step).

        Raises:
            ValueError: attention of this kind is not defined over this memory.
        """
        self.require(memory)
        features = for_products(memory.features)
        return replace(memory, features=features, keys=self.project(features))

    def focus(self, query: Tensor, memory: Memory, step: Tensor | None) -> Focus:
        """Which locations the queries may look at: here all real ones; `forward` says what the arguments are."""
        return Focus(memory.mask[:, None])

    def forward(
        self, query: Tensor, memory: Memory, step: Tensor | None = None, sentinel: Tensor | None = None
    ) -> Attended:
        """Attend to the memory.

        Args:
            query: (B, K, H) hidden states, K sequences per image.
            memory: L annotation vectors per image, with their projected keys.
            step: (B, K) int64, the number of each sequence's word, from 0; local attention needs it.
            sentinel: (B, K, D) one more vector, each sequence's own, that competes with the locations (Lu et al. 2017,
                arXiv 1612.01887, equation 12); it is projected and scored as they are.

        Returns:
            context: (B, K, D) weighted mean of the annotation vectors, and of the sentinel.
            alpha: (B, K, L) weights, at least in float32; each row sums to 1, or to 1 less the sentinel's weight;
                padded locations get 0.
            extras: "sentinel" (B, K), its weight, where there is one.

        Raises:
            ValueError: the memory has no keys: it was not prepared.
        """
        return self.attend(query, memory, self.focus(query, memory, step), sentinel)

    def attend(self, query: Tensor, memory: Memory, focus: Focus, sentinel: Tensor | None = None) -> Attended:
        """Attend to what a focus leaves of the memory; see `forward`."""
        if memory.keys is None:
            raise ValueError(NOT_PREPARED)
        query = self.ask(query, memory)
        own = None if sentinel is None else self._score_own(query, self.own_keys(sentinel, memory))
        alpha, weight = self.weigh(self.score(query, memory.keys), focus, own)
        context = alpha.to(memory.features.dtype) @ memory.features  # (B, K, D)
        if sentinel is None or weight is None:
            return Attended(context, alpha)
        return Attended(context + weight.to(sentinel.dtype) * sentinel, alpha, {"sentinel": weight.squeeze(-1)})

    def weigh(self, scores: Tensor, focus: Focus, own: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Weights (..., L) of scores (..., L), and (..., 1) of the sentinel's score `own` where there is one."""
        scores = scores.masked_fill(~focus.within, -torch.inf)
        weights = self.normaliser(scores if own is None else torch.cat((scores, own.to(scores.dtype)), dim=-1))
        alpha = weights[..., : scores.shape[-1]]
        if focus.factor is not None:
            alpha = alpha * focus.factor
        return alpha, None if own is None else weights[..., -1:]

    def _score_own(self, query: Tensor, keys: Tensor) -> Tensor:
        """The score (B, K, 1) of each query (B, K, ...) with the key of its own (B, K, A)."""
        return self.score(query.flatten(0, 1)[:, None], keys.flatten(0, 1)[:, None]).view(*query.shape[:2], 1)


def for_products(features: Tensor) -> Tensor:
    """Features in the number format that matrix products run in: bfloat16 under autocast, say."""
    number_format = autocast_format(features.device)
    return features if number_format is None else features.to(number_format)


def autocast_format(device: torch.device) -> torch.dtype | None:
    """What autocast has a device's products in; None where it is off."""
    kind = device.type
    return torch.get_autocast_dtype(kind) if kind in AUTOCAST and torch.is_autocast_enabled(kind) else None


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """In here products are in the number formats of what is multiplied."""
    return torch.autocast(device.type, enabled=False) if device.type in AUTOCAST else nullcontext()


def precise(tensor: Tensor) -> Tensor:
    """In single precision at least."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def let_vary(*tensors: Tensor) -> None:
    """Have the compiler make code for any first two sizes of tensors, whatever other sizes they happen to equal."""
    for tensor in tensors:
        for dim in range(min(2, tensor.dim())):
            torch._dynamo.maybe_mark_dynamic(tensor, dim)
