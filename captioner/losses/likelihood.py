"""The likelihood of the words, and the doubly stochastic term."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from captioner.losses.sums import LossSums, Mean
from captioner.types import TeacherForced
from captioner.types.limits import require_factors, require_shares


@dataclass(frozen=True)
class Scale:
    """What a strength lambda of the doubly stochastic term means.

    Attributes:
        per: what the whole loss is a mean over, "caption" or "word".
        numerator: the weight of one caption's term, sum_i (1 - sum_t alpha_ti)^2, beside its likelihood; where the
            mean is over words, beside the mean of both.
        over_locations: whether that weight is divided by L.
    """

    per: Literal["caption", "word"]
    numerator: float
    over_locations: bool


SCALES = {
    # Equation 14 as printed: a caption's negative log-likelihood plus the sum over its locations.
    "paper": Scale("caption", 1.0, over_locations=False),
    # The authors' code sums the term over its batch of 64 captions and takes the mean over locations,
    # beside a mean likelihood per caption. 64 is a fixed reference, whatever the batch at hand.
    "authors": Scale("caption", 64.0, over_locations=True),
    # Most tutorials: mean over captions and locations, beside a mean likelihood per word.
    "mean": Scale("word", 1.0, over_locations=True),
}


class CaptionLoss(nn.Module):
    """Cross-entropy over real words plus the doubly stochastic term (arXiv 1502.03044, equation 14).

    Args:
        doubly_stochastic: lambda; 0 leaves the term out (the authors' code: 1).
        scale: what lambda means: "paper" (the likelihood per caption, plus lambda times the sum over locations),
            "authors" (per caption, plus lambda 64 / L times the sum, as their code does with its
            batch of 64) or "mean" (per word, plus lambda times the mean over captions and locations, as in most
            tutorials). With L = 196 and captions of 11 words, one lambda is 1, 0.33 and 0.056 in the first's units.
            All means are over the words or captions of all processes and accumulated batches; but the term's of
            "mean" is over those of one batch of all processes, and counts by the batch's words.
        label_smoothing: probability given to all words alike (Szegedy et al. 2016, arXiv 1512.00567); the paper: 0.

    Raises:
        ValueError: an unknown scale, or a number that is not possible.
    """

    def __init__(
        self,
        doubly_stochastic: float = 1.0,
        scale: Literal["paper", "authors", "mean"] = "mean",
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        if scale not in SCALES:
            raise ValueError(f"scale {scale!r} is not one of {', '.join(SCALES)}")
        require_factors(doubly_stochastic=doubly_stochastic)
        require_shares(label_smoothing=label_smoothing)
        self.doubly_stochastic = doubly_stochastic
        self.scale = scale
        self.label_smoothing = label_smoothing

    def forward(self, output: TeacherForced, targets: Tensor, references: Sequence[Sequence[str]] = ()) -> LossSums:
        """Add up a batch.

        Args:
            output: what the decoder said, N real words.
            targets: (B, K, T) the words it should have said; padding is left out.
            references: the reference captions of the B images as written, for losses that look at them; here not.

        Returns:
            Sums, all 0 where the batch has no captions. Terms: "likelihood", the words' negative log-likelihood with
            label smoothing, over words or captions; "doubly_stochastic", weighted, over captions. Logs: "nll", without
            label smoothing, over words; "doubly_stochastic", unweighted, over captions.

        Raises:
            ValueError: in training mode, the locations were sampled: they would go unrewarded.
        """
        if self.training and "sample_log_prob" in output.extras:
            raise ValueError("hard attention learns by a loss of its own: take HardAttentionLoss")
        return self.add_up(output, targets)

    def add_up(self, output: TeacherForced, targets: Tensor) -> LossSums:
        """What `forward` returns, for any attention."""
        logits, words = in_single_precision(output.logits), output.of_words(targets)  # (N, V), (N,)
        smoothed = functional.cross_entropy(logits, words, reduction="sum", label_smoothing=self.label_smoothing)
        nll = smoothed.detach()
        if self.label_smoothing:
            nll = functional.cross_entropy(logits.detach(), words, reduction="sum")
        num_words = output.mask.sum()
        num_captions = output.mask.any(dim=-1).sum()

        scale = SCALES[self.scale]
        count = num_words if scale.per == "word" else num_captions
        terms = {"likelihood": Mean(smoothed, count)}
        logs = {"doubly_stochastic": Mean(smoothed.new_zeros(()), num_captions), "nll": Mean(nll, num_words)}
        if output.alpha is not None and self.doubly_stochastic:
            of_captions = doubly_stochastic_term(output.alpha, output.mask, output.locations)  # (B, K)
            logs["doubly_stochastic"] = Mean(of_captions.detach().sum(), num_captions)
            weighted = self.doubly_stochastic * scale.numerator * of_captions
            if scale.over_locations:
                weighted = weighted / output.locations.sum(dim=-1, keepdim=True)
            terms["doubly_stochastic"] = Mean(weighted.sum(), num_captions)
        return LossSums(terms, logs)

    def learn(self, sums: LossSums) -> None:
        """What the loss itself learns of a step; nothing here.

        Args:
            sums: of the batches of all processes, and of those that were accumulated.
        """


def doubly_stochastic_term(alpha: Tensor, mask: Tensor, locations: Tensor) -> Tensor:
    """sum_i (1 - sum_t alpha_ti)^2 for every caption; padded steps, locations and missing captions add nothing.

    Args:
        alpha: (B, K, T, L) attention weights, 0 where a word is not real.
        mask: (B, K, T) where words are real.
        locations: (B, L) where locations are real.

    Returns:
        (B, K).
    """
    attended = alpha.sum(dim=2)  # (B, K, L)
    return ((1 - attended).square() * locations[:, None]).sum(-1) * mask.any(dim=-1)


def in_single_precision(logits: Tensor) -> Tensor:
    """In single precision at least."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
