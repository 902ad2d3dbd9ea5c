"""What moves word by word, and what a decoder and a search give back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


State = dict[str, "Tensor"]
"""What a decoder carries from word to word; every tensor is (B, K, ...)."""

Step = Callable[["Tensor", State], tuple["Tensor", State]]
"""One word further: tokens (B, K) and a state to logits (B, K, V) and the next state."""

Feed = Callable[["Tensor", "Tensor"], "Tensor"]
"""Which words a decoder reads next: the given ones (B, K) and its own logits of them (B, K, V), to words (B, K).
The first word, the begin word, is always the given one."""


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
    extras: Mapping[str, Tensor] = {}


class Reading(NamedTuple):
    """What comes of reading one word of each sequence.

    Attributes:
        logits: (B, K, V) of the next word.
        attended: where the decoder looked.
        state: the state after it.
    """

    logits: Tensor
    attended: Attended
    state: State


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


class Found(NamedTuple):
    """What a search found, on its device: up to N captions of each of B images, best first (or in the order drawn).

    Attributes:
        words: (B, N, T) int64 word ids, without the begin and end words; 0 from `lengths` on.
        lengths: (B, N) int64 number of words.
        log_probs: (B, N) the model's natural log-probability of these words and, where `finished`, the end word; -inf
            in places that no caption takes.
        scores: (B, N) what the search ranked by.
        finished: (B, N) bool, whether the end word was reached.
    """

    words: Tensor
    lengths: Tensor
    log_probs: Tensor
    scores: Tensor
    finished: Tensor

    def hypotheses(self) -> list[list[Hypothesis]]:
        """The captions of each image, in the order that they have here."""
        columns = (tensor.tolist() for tensor in (self.words, self.lengths, self.log_probs, self.scores, self.finished))
        return [
            [
                Hypothesis(words[:length], log_prob, score, done)
                for words, length, log_prob, score, done in zip(*image, strict=True)
                if log_prob != float("-inf")
            ]
            for image in zip(*columns, strict=True)
        ]

    def given(self, bos_id: int, eos_id: int, pad_id: int) -> tuple[Tensor, Tensor]:
        """These captions as a decoder's `forward` takes them.

        Returns:
            tokens (B, N, T + 2): begin word, words, end word where it was reached, padding; and the lengths (B, N), how
            many words there are to predict, 0 in places that no caption takes.
        """
        import torch

        place = torch.arange(self.words.shape[-1] + 1, device=self.words.device)
        words = torch.nn.functional.pad(self.words, (0, 1))
        words = words.masked_fill(place >= self.lengths[..., None], pad_id)
        words = words.masked_fill((place == self.lengths[..., None]) & self.finished[..., None], eos_id)
        lengths = (self.lengths + self.finished).masked_fill(self.log_probs == -torch.inf, 0)
        return torch.nn.functional.pad(words, (1, 0), value=bos_id), lengths
