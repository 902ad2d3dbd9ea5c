"""What training minimises: the likelihood of the words, and the doubly stochastic term.

Both are sums over captions together with the numbers they are to be divided by, so that gradient
accumulation and several processes can divide by the global numbers, not by a mean of means.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

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


class Mean(NamedTuple):
    """A mean that is not divided yet: scalars, detached."""

    total: Tensor
    number: Tensor

    @property
    def value(self) -> Tensor:
        """The mean; 0 of nothing."""
        return self.total / self.number.clamp(min=1)


@dataclass(frozen=True)
class LossSums:
    """A batch's loss before division, likelihood / count + penalty / captions.

    Attributes:
        likelihood: scalar, the sum of what is a mean over `count`: the words' negative log-likelihood, with label
            smoothing, and whatever else a loss adds to it.
        count: scalar, the words or captions that it is to be divided by, over all processes and accumulated batches.
        penalty: scalar, the sum over captions of the weighted doubly stochastic term.
        captions: scalar, the number of captions that have words.
        nll: scalar, the sum of the words' negative log-likelihood, without label smoothing (detached).
        words: scalar, the number of words.
        doubly_stochastic: scalar, the sum over captions of the unweighted term (detached).
        logs: means by name that a loss wants to be seen besides.
    """

    likelihood: Tensor
    count: Tensor
    penalty: Tensor
    captions: Tensor
    nll: Tensor
    words: Tensor
    doubly_stochastic: Tensor
    logs: Mapping[str, Mean] = field(default_factory=dict)

    @property
    def total(self) -> Tensor:
        """The sum to minimise, of this batch alone; divided by `count` it is the loss."""
        return self.share_of(self)

    def share_of(self, whole: LossSums) -> Tensor:
        """What this batch adds to the total of a larger one.

        A mean over captions in a loss that is divided by words is weighted by words per caption: those of `whole`.

        Args:
            whole: the sums of the batches of all processes.
        """
        return self.likelihood + self.penalty * (whole.count / whole.captions.clamp(min=1))

    def vector(self) -> Tensor:
        """(N,) all sums in a row, detached, to be added up over batches and processes."""
        sums = [self.likelihood, self.count, self.penalty, self.captions, self.nll, self.words, self.doubly_stochastic]
        for mean in self.logs.values():
            sums += mean
        return torch.stack([value.detach().to(self.likelihood) for value in sums])

    def from_vector(self, vector: Tensor) -> LossSums:
        """The sums of such a row, with the logs' names of this batch."""
        likelihood, count, penalty, captions, nll, words, term, *of_logs = vector.unbind()
        logs = dict(zip(self.logs, map(Mean, of_logs[::2], of_logs[1::2]), strict=True))
        return LossSums(likelihood, count, penalty, captions, nll, words, term, logs)


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
        logits, words = _precise(output.logits), output.of_words(targets)  # (N, V), (N,)
        smoothed = functional.cross_entropy(logits, words, reduction="sum", label_smoothing=self.label_smoothing)
        nll = smoothed.detach()
        if self.label_smoothing:
            nll = functional.cross_entropy(logits.detach(), words, reduction="sum")
        num_words = output.mask.sum()
        num_captions = output.mask.any(dim=-1).sum()

        scale = SCALES[self.scale]
        count = num_words if scale.per == "word" else num_captions
        term = penalty = smoothed.new_zeros(())
        if output.alpha is not None and self.doubly_stochastic:
            terms = doubly_stochastic_term(output.alpha, output.mask, output.locations)  # (B, K)
            term = terms.detach().sum()
            weighted = self.doubly_stochastic * scale.numerator * terms
            if scale.over_locations:
                weighted = weighted / output.locations.sum(dim=-1, keepdim=True)
            penalty = weighted.sum()
        return LossSums(smoothed, count, penalty, num_captions, nll, num_words, term)

    def learn(self, sums: LossSums) -> None:
        """What the loss itself learns of a step; nothing here.

        Args:
            sums: of the batches of all processes, and of those that were accumulated.
        """


class HardAttentionLoss(CaptionLoss):
    """`CaptionLoss`, and REINFORCE for locations that hard attention sampled (arXiv 1502.03044, section 4.1).

    The gradient is equation 12's: of a caption's log-likelihood R given the locations s; of log p(s), weighted by
    lambda_r (R - b); and of the attention's entropy, weighted by lambda_e. The baseline b is a moving average of R over
    the steps before (equation 11). Where a batch used expected weights (see `HardAttention`) log p(s) is 0 and the
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
        baseline_decay: what b keeps of itself at each step (the authors' code: 0.9).
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
        """Add up a batch.

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
        of_words = log_probs.gather(-1, output.of_words(targets)[:, None])[:, 0]  # (N,)
        rewards = of_words.new_zeros(output.mask.shape).masked_scatter(output.mask, of_words).sum(-1)  # (B, K)
        if self.scale == "authors":
            rewards = rewards / output.mask.sum(-1).clamp(min=1)
        advantage = rewards - self.baseline
        path = output.extras["sample_log_prob"].sum(-1)  # (B, K) log p(s)
        entropy = output.extras["entropy"].sum()
        reinforced = self.reward_scale * (advantage * path).sum() + self.entropy * entropy
        logs = {
            "reward": Mean(rewards.sum(), sums.captions),
            "baseline": Mean(self.baseline.clone(), torch.ones_like(self.baseline)),
            "entropy": Mean(entropy.detach(), sums.words),
        }
        likelihood = sums.likelihood - SCALES[self.scale].numerator * reinforced
        return replace(sums, likelihood=likelihood, logs=logs)

    def learn(self, sums: LossSums) -> None:
        """Move the baseline; see `CaptionLoss.learn`."""
        reward = sums.logs["reward"]
        moved = self.baseline.lerp(reward.value.to(self.baseline.dtype), 1 - self.baseline_decay)
        self.baseline.copy_(torch.where(reward.number > 0, moved, self.baseline))  # no captions, no reward


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
