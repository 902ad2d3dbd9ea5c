"""What training minimises: the likelihood of the words, and the doubly stochastic term.

Both are sums over captions together with the number they are to be divided by, so that gradient
accumulation and several processes can divide by the global number, not by a mean of means.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional

from captioner.types import TeacherForced


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


@dataclass(frozen=True)
class LossSums:
    """A batch's loss before division.

    Attributes:
        total: scalar, the sum to minimise.
        count: scalar, the words or captions that it is to be divided by, over all processes and accumulated batches.
        nll: scalar, the sum of the words' negative log-likelihood, without label smoothing (detached).
        words: scalar, the number of words.
        doubly_stochastic: scalar, the sum over captions of the unweighted term (detached).
        captions: scalar, the number of captions that have words.
    """

    total: Tensor
    count: Tensor
    nll: Tensor
    words: Tensor
    doubly_stochastic: Tensor
    captions: Tensor


class CaptionLoss(nn.Module):
    """Cross-entropy over real words plus the doubly stochastic term (arXiv 1502.03044, equation 14).

    Args:
        doubly_stochastic: lambda; 0 leaves the term out (the authors' code: 1).
        scale: what lambda means: "paper" (the likelihood per caption, plus lambda times the sum over locations),
            "authors" (per caption, plus lambda 64 / L times the sum, as their code does with its
            batch of 64) or "mean" (per word, plus lambda times the mean over captions and locations, as in most
            tutorials). With L = 196 and captions of 11 words, one lambda is 1, 0.33 and 0.056 in the first's units.
            The likelihood's mean is over all words, however they are split into batches; so is the term's over
            captions, but for "mean", where each batch's own mean counts by the batch's words.
        label_smoothing: probability given to all words alike (Szegedy et al. 2016, arXiv 1512.00567); the paper: 0.
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
        self.doubly_stochastic = doubly_stochastic
        self.scale = scale
        self.label_smoothing = label_smoothing

    def forward(self, output: TeacherForced, targets: Tensor) -> LossSums:
        """Add up a batch.

        Args:
            output: what the decoder said, N real words.
            targets: (B, K, T) the words it should have said; padding is left out.

        Returns:
            Sums, all 0 where the batch has no captions.
        """
        logits, words = output.logits.float(), targets[output.mask]  # (N, V), (N,)
        smoothed = functional.cross_entropy(logits, words, reduction="sum", label_smoothing=self.label_smoothing)
        nll = smoothed.detach()
        if self.label_smoothing:
            nll = functional.cross_entropy(logits.detach(), words, reduction="sum")
        num_words = output.mask.sum()
        num_captions = output.mask.any(dim=-1).sum()

        scale = SCALES[self.scale]
        count = num_words if scale.per == "word" else num_captions
        total, term = smoothed, smoothed.new_zeros(())
        if output.alpha is not None and self.doubly_stochastic:
            term = doubly_stochastic_term(output.alpha, output.mask).sum()
            weight = self.doubly_stochastic * scale.numerator
            if scale.over_locations:
                weight = weight / output.alpha.shape[-1]
            # A mean over captions in a loss that is divided by words is weighted by words per caption: those of
            # this batch, so that with "mean" the term (not the likelihood) depends a little on how batches are cut.
            total = total + weight * term * (count / num_captions.clamp(min=1))
        return LossSums(total, count, nll, num_words, term.detach(), num_captions)


def doubly_stochastic_term(alpha: Tensor, mask: Tensor) -> Tensor:
    """sum_i (1 - sum_t alpha_ti)^2 for every caption; padded steps and missing captions add nothing.

    A padded location, which no word can attend to, adds the constant 1.

    Args:
        alpha: (B, K, T, L) attention weights, 0 where a word is not real.
        mask: (B, K, T) where words are real.

    Returns:
        (B, K).
    """
    attended = alpha.sum(dim=2)  # (B, K, L)
    return (1 - attended).square().sum(-1) * mask.any(dim=-1)
