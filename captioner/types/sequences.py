"""What moves word by word, and what a decoder and a search give back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


State = dict[str, "Tensor"]
"""What a decoder carries from word to word; every tensor is (B, K, ...)."""

Step = Callable[["Tensor", State], tuple["Tensor", State]]
"""One word further: tokens (B, K) and a state to logits (B, K, V) and the next state."""


class Attended(NamedTuple):
    """What one look at the memory gives.

    Attributes:
        context: (B, K, D) weighted mean of the annotation vectors.
        alpha: (B, K, L) weights; rows sum to 1 unless the attention says otherwise, padded locations get 0. None where
            a decoder does not attend.
        extras: more to know, by name, all (B, K, ...): "heads" (B, K, N, L) of several heads, whose mean `alpha` is;
            "sentinel" (B, K), the weight of a sentinel, the rest of alpha's row; "sample_log_prob" and "entropy"
            (B, K) of hard attention.
    """

    context: Tensor
    alpha: Tensor | None
    extras: Mapping[str, Tensor] = MappingProxyType({})


class TeacherForced(NamedTuple):
    """A decoder's answer to given captions, N real words in all (row by row of `mask`).

    Attributes:
        logits: (N, V) for the real words alone.
        mask: (B, K, T) bool, True where a word is real; `logits` are in the order of `mask.nonzero()`.
        alpha: (B, K, T, L) attention weights, 0 where a word is not real; None for a decoder that
            does not attend.
        extras: (B, K, T, ...) what else attention gave, by name (see `Attended`), 0 where a word is not real.
        locations: (B, L) bool, True where a location is real.
        places: (N,) int64, where the real words lie in (B, K, T) when it is one row.
    """

    logits: Tensor
    mask: Tensor
    alpha: Tensor | None
    extras: Mapping[str, Tensor]
    locations: Tensor
    places: Tensor

    def of_words(self, values: Tensor) -> Tensor:
        """Those of (B, K, T) values that belong to real words, (N,), in the order of `logits`.

        Unlike `values[mask]` it does not wait for an accelerator to count them.
        """
        return values.flatten().index_select(0, self.places)


class Hypothesis(NamedTuple):
    """One caption that a search found.

    Attributes:
        tokens: word ids, without the begin and end words.
        log_prob: the model's natural log-probability of these words and, when `finished`, the end word.
        score: what the search ranked by (log_prob under its length normalisation).
        finished: whether the end word was reached.
    """

    tokens: list[int]
    log_prob: float
    score: float
    finished: bool
