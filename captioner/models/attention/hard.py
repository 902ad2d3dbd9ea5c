"""Hard attention: one location at a time, drawn by chance (Show, Attend and Tell, Xu et al. 2015, arXiv 1502.03044).

Section 4.1: the location s_t is a sample of Multinoulli(alpha_t) (equation 8), and the context its annotation vector
(equation 9). Its gradient (equations 10 to 12) is a loss of `captioner.losses`, made of what `extras` hold.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from captioner.models.attention.base import Attention, Focus
from captioner.models.attention.normalisers import Normaliser
from captioner.models.attention.scorers import AdditiveAttention
from captioner.models.attention.wrapped import WrappedAttention
from captioner.types import Attended, Memory
from captioner.types.limits import require_shares

SAMPLED = "sampled"
"""The note of a memory that says of each image, (B,) bool, whether this pass samples its locations."""


def sample_locations(alpha: Tensor) -> Tensor:
    """Draw one location (B, K) int64 from each row of weights (B, K, L); one of weight 0 is never drawn."""
    # the first of L exponential clocks that run at rates alpha; torch.multinomial would wait for the device
    clocks = torch.empty_like(alpha).exponential_().clamp_min(torch.finfo(alpha.dtype).tiny)
    return (alpha.detach() / clocks).argmax(dim=-1)


class HardAttention(WrappedAttention):
    """A scorer's weights, of which one location is drawn per word and seen alone.

    In training a batch is either sampled, or sees the expected context (the weighted mean) as soft attention does: the
    authors draw anew for each batch, which lowers the variance. Evaluation always takes expected contexts, so it knows
    no chance. `alpha` is the expected weights in either case.

    Args:
        feature_dim: D, the size of an annotation vector.
        query_dim: H, the size of a query.
        scorer: makes the scorer from (feature_dim, query_dim); its rows must be single and sum to 1.
        sampling_probability: of a training batch being sampled; the authors' code: 0.5.
        normaliser: takes the place of the scorer's own, if given.

    Raises:
        ValueError: a scorer of several heads or of rows that do not sum to 1, or a probability that is none.
    """

    def __init__(
        self,
        feature_dim: int,
        query_dim: int,
        scorer: Callable[[int, int], Attention] = AdditiveAttention,
        sampling_probability: float = 0.5,
        normaliser: Normaliser | None = None,
    ) -> None:
        super().__init__(feature_dim, query_dim, scorer, normaliser)
        require_shares(sampling_probability=sampling_probability)
        if isinstance(self.scorer, HardAttention):
            raise ValueError("HardAttention cannot have HardAttention as its scorer: one draw is enough")
        if self.num_heads > 1:
            raise ValueError(
                f"HardAttention draws one location, and its scorer has {self.num_heads} heads: choose another scorer"
            )
        if not self.rows_sum_to_1:
            raise ValueError(
                f"HardAttention draws by weights that sum to 1, those of {type(self.scorer).__name__} do not: choose "
                "another scorer"
            )
        self.sampling_probability = sampling_probability

    def prepare(self, memory: Memory) -> Memory:
        """See `Attention.prepare`; in training it also draws, once, whether this batch is sampled."""
        memory = super().prepare(memory)
        if not self.training or SAMPLED in memory.notes:
            return memory
        sampled = torch.rand((), device=memory.mask.device) < self.sampling_probability
        return memory.with_note(SAMPLED, sampled.expand(len(memory.mask)))

    def attend(self, query: Tensor, memory: Memory, focus: Focus, sentinel: Tensor | None = None) -> Attended:
        """See `Attention.attend`.

        Returns:
            context: (B, K, D) the sampled location's annotation vector, or the weighted mean.
            alpha: (B, K, L) the expected weights.
            extras: "sample_log_prob" (B, K), the log-probability of the location that was sampled, 0 where none was;
                "entropy" (B, K), of alpha, in nats.

        Raises:
            ValueError: there is a sentinel.
        """
        if sentinel is not None:
            raise ValueError("HardAttention is not defined with a sentinel: choose a soft attention, its scorer say")
        soft = self.scorer.attend(query, memory, focus)
        context, alpha = soft.context, soft.alpha
        assert alpha is not None  # of decoders alone some do not attend
        # log 0 is kept finite, and so are gradients
        log_probs = alpha.clamp_min(torch.finfo(alpha.dtype).tiny).log()  # (B, K, L)
        entropy = -(alpha * log_probs).sum(dim=-1)  # (B, K)
        sample_log_prob = torch.zeros_like(entropy)
        if SAMPLED in memory.notes:
            sampled = memory.note(SAMPLED)[:, None]  # (B, 1)
            drawn = sample_locations(alpha)[..., None]  # (B, K, 1)
            seen = memory.features.take_along_dim(drawn, dim=1)  # (B, K, D)
            context = torch.where(sampled[..., None], seen, context)
            log_prob = log_probs.gather(-1, drawn).squeeze(-1)
            sample_log_prob = torch.where(sampled, log_prob, sample_log_prob)
        return Attended(context, alpha, {"sample_log_prob": sample_log_prob, "entropy": entropy})
