"""The REINFORCE loss of hard attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from captioner.losses.likelihood import SCALES, CaptionLoss, in_single_precision
from captioner.losses.sums import LossSums, Mean
from captioner.types import TeacherForced
from captioner.types.limits import require_factors, require_shares


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

    Raises:
        ValueError: an unknown scale, or a number that is not possible.
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
        require_factors(reward_scale=reward_scale, entropy=entropy)
        require_shares(baseline_decay=baseline_decay)
        self.reward_scale = reward_scale
        self.entropy = entropy
        self.baseline_decay = baseline_decay
        self.register_buffer("baseline", torch.zeros(()))

    def forward(self, output: TeacherForced, targets: Tensor, references: Sequence[Sequence[str]] = ()) -> LossSums:
        """Add up a batch.

        Args:
            output: what the decoder said; its extras hold "sample_log_prob" and "entropy".
            targets: (B, K, T) the words it should have said.
            references: not looked at.

        Returns:
            The sums of `CaptionLoss`, and the term "reinforced", over what the likelihood is a mean over.

        Raises:
            ValueError: the decoder's attention is not hard.
        """
        sums = self.add_up(output, targets)
        if "sample_log_prob" not in output.extras:
            if not self.training:
                return sums  # expected weights alone: there is nothing to reward
            raise ValueError("this loss rewards sampled locations: give the decoder HardAttention, or use CaptionLoss")
        log_probs = in_single_precision(output.logits.detach()).log_softmax(-1)  # (N, V)
        of_words = log_probs.gather(-1, output.of_words(targets)[:, None])[:, 0]  # (N,)
        rewards = of_words.new_zeros(output.mask.shape).masked_scatter(output.mask, of_words).sum(-1)  # (B, K)
        if self.scale == "authors":
            rewards = rewards / output.mask.sum(-1).clamp(min=1)
        advantage = rewards - self.baseline
        path = output.extras["sample_log_prob"].sum(-1)  # (B, K) log p(s)
        entropy = output.extras["entropy"].sum()
        reinforced = self.reward_scale * (advantage * path).sum() + self.entropy * entropy
        logs = {
            "reward": Mean(rewards.sum(), sums.logs["doubly_stochastic"].number),
            "baseline": Mean(self.baseline.clone(), torch.ones_like(self.baseline)),
            "entropy": Mean(entropy.detach(), sums.logs["nll"].number),
        }
        likelihood, *others = sums.terms.items()
        term = Mean(-SCALES[self.scale].numerator * reinforced, sums.count)
        return LossSums(dict([likelihood, ("reinforced", term), *others]), {**sums.logs, **logs})

    def learn(self, sums: LossSums) -> None:
        """Move the baseline; see `CaptionLoss.learn`."""
        reward = sums.logs["reward"]
        moved = self.baseline.lerp(reward.value.to(self.baseline.dtype), 1 - self.baseline_decay)
        self.baseline.copy_(torch.where(reward.number > 0, moved, self.baseline))  # no captions, no reward
