"""Additive scores without their (B, K, L, A) intermediate, which is most of what they cost.

    tanh(q + k) = 1 - 2 r   with   r = 1 / (1 + e^2q e^2k)

The exponentials are of queries and of keys apart, those of the keys taken once per image, so that a pair costs a
product, a sum and a reciprocal, many times less than a tanh. The intermediate is made a few images at a time, small
enough for a processor's cache, and made again in the backward pass rather than kept. Compiled, the same lines become
one loop that never writes it down; on CUDA the kernels of `triton_additive` do the same.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from captioner.models.attention.base import Attention
from captioner.models.attention.normalisers import Normaliser

LARGEST = 30.0
"""What projected queries and keys are clamped to, so that neither exponential is infinite or 0 in float32. A pair of
opposite signs beyond it has another sum then; tanh is 1 from 9 on, so no trained network comes near."""

BLOCK_SIZE = 2**19
"""Numbers of the intermediate that are in memory at a time on a CPU: what a core's cache holds."""


class AdditiveScorer(Attention):
    """Score v . tanh(q + k); subclasses say how queries and keys are projected to q and k.

    Args:
        feature_dim: D, the size of an annotation vector.
        query_dim: H, the size of a query.
        attention_dim: A, the size of the space they are compared in.
        normaliser: turns scores into weights; softmax by default.

    Attributes:
        energy: v, which subclasses make.
        compare: what makes the scores, `additive_scores` or that compiled.
    """

    energy: nn.Linear
    compare: Callable[[Tensor, Tensor, Tensor], Tensor]

    def __init__(self, feature_dim: int, query_dim: int, attention_dim: int, normaliser: Normaliser | None) -> None:
        super().__init__(feature_dim, query_dim, normaliser)
        self.attention_dim = attention_dim
        self.compare = additive_scores

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """See `Attention.compile`."""
        self.compare = torch.compile(additive_scores, *args, **kwargs)

    def score_projected(self, query: Tensor, keys: Tensor) -> Tensor:
        """Scores (B, K, L) of projected queries q (B, K, A) against the `exponential` of projected keys (B, L, A)."""
        return self.compare(exponential(query), keys, self.energy.weight[0])


def exponential(projected: Tensor) -> Tensor:
    """e^2x of a projected query or key, at least in float32: what `additive_scores` compares."""
    precise = projected.to(torch.promote_types(projected.dtype, torch.float32))
    return (2 * precise.clamp(-LARGEST, LARGEST)).exp()


def additive_scores(query: Tensor, keys: Tensor, energy: Tensor) -> Tensor:
    """Score v . tanh(q + k) for every query and key of an image.

    Args:
        query: (B, K, A) e^2q, see `exponential`.
        keys: (B, L, A) e^2k.
        energy: (A,) v.

    Returns:
        (B, K, L), in the number format of the keys.
    """
    device = keys.device.type
    precisely = torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()
    with precisely:
        return _AdditiveScores.apply(query, keys, energy.to(keys.dtype))


class _AdditiveScores(torch.autograd.Function):
    """The score is sum(v) - 2 v . r; the slope of tanh(q + k) is 4 (r - r^2)."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, keys: Tensor, energy: Tensor) -> Tensor:
        ctx.save_for_backward(query, keys, energy)
        sums, _ = _kernels(keys)
        return energy.sum() - 2 * sums(query, keys, energy)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, keys, energy = ctx.saved_tensors
        _, sums = _kernels(keys)
        of_query, of_keys, of_energy = sums(query, keys, grad)
        twice = 2 * energy  # d e^2q = 2 e^2q dq turns the slope's 4 into 2 / e^2q
        return of_query * twice / query, of_keys * twice / keys, grad.sum() - 2 * of_energy


def _kernels(keys: Tensor) -> tuple[Callable[..., Tensor], Callable[..., tuple[Tensor, Tensor, Tensor]]]:
    """`weighted_sums` and `slope_sums`, for the device that the keys are on."""
    if keys.is_cuda and not torch.compiler.is_compiling() and _triton_works(keys.device):
        from captioner.models.attention import triton_additive

        return triton_additive.weighted_sums, triton_additive.slope_sums
    return weighted_sums, slope_sums


@cache
def _triton_works(device: torch.device) -> bool:
    """Whether a kernel can be built and run: that takes Triton, a C compiler, and a GPU that is not too old."""
    if find_spec("triton") is None:
        return False
    from captioner.models.attention import triton_additive

    small = torch.ones(2, 16, 64, device=device)
    try:
        triton_additive.weighted_sums(small, small, small[0, 0])
    except Exception as error:  # of Triton's, of the compiler it calls, of the driver
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        warnings.warn(f"additive attention goes without Triton on {device}: {reason}", stacklevel=2)
        return False
    return True


def weighted_sums(query: Tensor, keys: Tensor, energy: Tensor) -> Tensor:
    """sum_a v_a r_a: (B, K, A), (B, L, A) and (A,) to (B, K, L)."""
    return torch.cat([reciprocals(q, k) @ energy for q, k in _blocks(query, keys)])


def slope_sums(query: Tensor, keys: Tensor, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """With s = r - r^2 and g (B, K, L): sum_l g s (B, K, A), sum_k g s (B, L, A) and the sum of g r, (A,)."""
    of_query, of_keys, of_energy = [], [], keys.new_zeros(keys.shape[-1])
    for q, k, g in _blocks(query, keys, grad):
        r = reciprocals(q, k)
        weighted = g[..., None] * r
        of_energy = of_energy + weighted.sum(dim=(0, 1, 2))
        slopes = weighted.addcmul_(weighted, r, value=-1)
        of_query.append(slopes.sum(dim=2))
        of_keys.append(slopes.sum(dim=1))
    return torch.cat(of_query), torch.cat(of_keys), of_energy


def reciprocals(query: Tensor, keys: Tensor) -> Tensor:
    """The r (b, K, L, A) of queries and keys."""
    return (query[:, :, None] * keys[:, None]).add_(1).reciprocal_()


def _blocks(query: Tensor, keys: Tensor, *others: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """A few images at a time; all at once where the compiler makes one loop of it, or where there is no such cache."""
    each = query.shape[1] * keys.shape[1] * keys.shape[2]
    whole = torch.compiler.is_compiling() or keys.device.type != "cpu"
    size = len(keys) if whole else max(1, BLOCK_SIZE // max(1, each))
    return zip(*(tensor.split(size) for tensor in (query, keys, *others)), strict=True)
