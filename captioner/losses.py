"""What training minimises: the likelihood of the words, and the doubly stochastic term.

Both are sums over captions together with the number they are to be divided by, so that gradient
accumulation and several processes can divide by the global number, not by a mean of means.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
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
        logs: scalars by name, means over the batch, that a loss wants to be seen besides (detached).
    """

    total: Tensor
    count: Tensor
    nll: Tensor
    words: Tensor
    doubly_stochastic: Tensor
    captions: Tensor
    logs: Mapping[str, Tensor] = field(default_factory=dict)


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

        Raises:
            ValueError: in training mode, the locations were sampled: they would go unrewarded.
        """
        if self.training and "sample_log_prob" in output.extras:
            raise ValueError("hard attention learns by a loss of its own: take HardAttentionLoss")
        return self.add_up(output, targets)

    def add_up(self, output: TeacherForced, targets: Tensor) -> LossSums:
        """What `forward` returns, for any attention."""
        logits, words = _precise(output.logits), targets[output.mask]  # (N, V), (N,)
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
            terms = doubly_stochastic_term(output.alpha, output.mask, output.locations)  # (B, K)
            term = terms.sum()
            weight = self.doubly_stochastic * scale.numerator
            weighted = weight * terms
            if scale.over_locations:
                weighted = weighted / output.locations.sum(dim=-1, keepdim=True)
            # A mean over captions in a loss that is divided by words is weighted by words per caption: those of
            # this batch, so that with "mean" the term (not the likelihood) depends a little on how batches are cut.
            total = total + weighted.sum() * (count / num_captions.clamp(min=1))
        return LossSums(total, count, nll, num_words, term.detach(), num_captions)


class HardAttentionLoss(CaptionLoss):
    """`CaptionLoss`, and REINFORCE for locations that hard attention sampled (arXiv 1502.03044, section 4.1).

    The gradient is equation 12's: of a caption's log-likelihood R given the locations s; of log p(s), weighted by
    lambda_r (R - b); and of the attention's entropy, weighted by lambda_e. The baseline b is a moving average of R over
    the batches before (equation 11). Where a batch used expected weights (see `HardAttention`) log p(s) is 0 and the
    second part with it.

    With the scale "authors" lambda_r and lambda_e mean what they mean in their code: these two parts are not divided by
    its 64 captions as the likelihood is, and R and b are means over a caption's words. Beside a caption of 12 words
    their 0.1 is then worth 0.53 and their 0.002 is worth 0.128, in the units of equation 12 that the other scales have.

    Logged: "reward" (R, the mean over captions), "baseline", "entropy" (of a word's weights, in nats).

    Args:
        doubly_stochastic: see `CaptionLoss`, like the two that follow.
        scale: what lambda means, and what the whole loss is a mean over.
        label_smoothing: probability given to all words alike; rewards are without.
        reward_scale: lambda_r (the authors' code: 0.1).
        entropy: lambda_e (the authors' code: 0.002).
        baseline_decay: what b keeps of itself at each batch (the authors' code: 0.9).
    """

    baseline: Tensor

    def __init__(
        self,
        doubly_stochastic: float = 1.0,
        scale: Literal["paper", "authors", "mean"] = "mean",
        label_smoothing: float = 0.0,
        reward_scale: float = 0.1,
        entropy: float = 0.002,
        baseline_decay: float = 0.9,
    ) -> None:
        super().__init__(doubly_stochastic, scale, label_smoothing)
        self.reward_scale = reward_scale
        self.entropy = entropy
        self.baseline_decay = baseline_decay
        self.register_buffer("baseline", torch.zeros(()))

    def forward(self, output: TeacherForced, targets: Tensor) -> LossSums:
        """Add up a batch; in training mode the baseline moves.

        Args:
            output: what the decoder said; its extras hold "sample_log_prob" and "entropy".
            targets: (B, K, T) the words it should have said.

        Raises:
            ValueError: the decoder's attention is not hard.
        """
        sums = self.add_up(output, targets)
        if "sample_log_prob" not in output.extras:
            if not self.training:
                return sums  # expected weights alone: there is nothing to reward
            raise ValueError("this loss rewards sampled locations: give the decoder HardAttention, or use CaptionLoss")
        log_probs = _precise(output.logits.detach()).log_softmax(-1)  # (N, V)
        of_words = log_probs.gather(-1, targets[output.mask][:, None])[:, 0]  # (N,)
        rewards = of_words.new_zeros(output.mask.shape).masked_scatter(output.mask, of_words).sum(-1)  # (B, K)
        if self.scale == "authors":
            rewards = rewards / output.mask.sum(-1).clamp(min=1)
        advantage = rewards - self.baseline
        path = output.extras["sample_log_prob"].sum(-1)  # (B, K) log p(s)
        entropy = output.extras["entropy"].sum()
        reinforced = self.reward_scale * (advantage * path).sum() + self.entropy * entropy
        logs = {"reward": rewards.sum() / sums.captions.clamp(min=1), "baseline": self.baseline.clone()}
        logs["entropy"] = entropy.detach() / sums.words.clamp(min=1)
        if self.training:
            moved = self.baseline.lerp(logs["reward"].to(self.baseline.dtype), 1 - self.baseline_decay)
            self.baseline.copy_(torch.where(sums.captions > 0, moved, self.baseline))  # no captions, no reward
        return replace(sums, total=sums.total - SCALES[self.scale].numerator * reinforced, logs=logs)


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


def _precise(logits: Tensor) -> Tensor:
    """In single precision at least."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
