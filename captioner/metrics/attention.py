"""What attention weights say of themselves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def attention_entropy(alpha: Tensor, extras: Mapping[str, Tensor]) -> Tensor:
    """The entropy of where each word looked, in nats: 0 for one location, log L if all are looked at alike.

    Several heads are distributions of their own, so theirs is the mean of the heads' entropies, not the entropy of the
    mean of heads. A sentinel is one more place to look at. Rows that do not sum to 1 (of local-p, say) are divided by
    their sum.

    Args:
        alpha: (..., L) weights, all 0 where a word is not real.
        extras: see `Attended`: "heads" (..., N, L) and "sentinel" (...) count.

    Returns:
        (...), 0 where a word is not real.
    """
    import torch

    weights = extras.get("heads", alpha.unsqueeze(-2)).float()  # (..., N, L)
    if "sentinel" in extras:  # with it, rows sum to 1
        weights = torch.cat((weights, (1 - weights.sum(dim=-1, keepdim=True)).clamp(min=0)), dim=-1)
    total = weights.sum(dim=-1, keepdim=True)  # (..., N, 1)
    weights = weights / total.masked_fill(total == 0, 1)
    return -weights.xlogy(weights).sum(dim=-1).mean(dim=-1)
