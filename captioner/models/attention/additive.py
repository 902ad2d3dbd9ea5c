"""Additive scores without their (B, K, L, A) intermediate, which is most of what they cost.

    tanh(q + k) = 1 - 2 r   with   r = 1 / (1 + e^2q e^2k)

The exponentials are of queries and of keys apart, those of the keys taken once per image, so that a pair costs a
product, a sum and a reciprocal, many times less than a tanh. The intermediate is made a few images at a time, small
enough for a processor's cache, and made again in the backward pass rather than kept. Compiled, the same lines become
one loop that never writes it down; on CUDA the kernels of `triton_additive` do the same.

Exponentials of large numbers are no numbers. An image's mean key is therefore taken out of its keys and put into the
queries, where it changes no sum: what is left of the keys is small, and of the queries what counts.
"""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from captioner.models.attention.base import Attention, let_vary, precise, without_autocast
from captioner.models.attention.normalisers import Normaliser
from captioner.types import Memory
from captioner.types.limits import require_sizes

LARGEST = 40.0
"""What q and k are clamped to, so that neither exponential, nor one over it, is infinite or 0 in float32. As tanh is 1
from 9 on, a score changes only where q and k have opposite signs: it takes keys of an image twice this far apart."""

MEAN_KEY = "mean key"
"""The note of a memory that holds what was taken out of each image's keys, (B, A)."""

BLOCK_SIZE = 2**19
"""Numbers of the intermediate that are in memory at a time on a CPU: what a core's cache holds."""


class AdditiveScorer(Attention):
    """Score v . tanh(q + k), as `plain_scores` has it; subclasses say how queries and keys are projected to q and k.

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
        require_sizes(attention_dim=attention_dim)
        self.attention_dim = attention_dim
        self.compare = additive_scores

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """See `Attention.compile`."""
        compiled = torch.compile(additive_scores, *args, **kwargs)

        def compare(query: Tensor, keys: Tensor, energy: Tensor) -> Tensor:
            """With two images and two sequences at least: the compiler makes code of its own for one."""
            images, sequences = query.shape[:2]
            query = query.expand(max(images, 2), max(sequences, 2), -1) if 1 in (images, sequences) else query
            keys = keys.expand(2, -1, -1) if images == 1 else keys
            query, keys = query.contiguous(), keys.contiguous()
            let_vary(query, keys)
            return compiled(query, keys, energy)[:images, :sequences]

        self.compare = compare

    @abstractmethod
    def project_query(self, query: Tensor) -> Tensor:
        """Project queries (B, K, H) to q (B, K, A)."""

    def prepare(self, memory: Memory) -> Memory:
        """See `Attention.prepare`: e^2k of the keys less their mean, and the mean as a note."""
        memory = super().prepare(memory)
        assert memory.keys is not None
        keys = precise(memory.keys)
        real = memory.mask[..., None]  # (B, L, 1)
        mean = keys.masked_fill(~real, 0).sum(dim=1) / real.sum(dim=1)  # (B, A)
        return replace(memory, keys=exponential(keys - mean[:, None])).with_note(MEAN_KEY, mean)

    def ask(self, query: Tensor, memory: Memory) -> Tensor:
        """See `Attention.ask`: e^2q, the image's mean key being part of q."""
        return exponential(self.project_query(query) + memory.note(MEAN_KEY)[:, None])

    def own_keys(self, own: Tensor, memory: Memory) -> Tensor:
        """See `Attention.own_keys`."""
        return exponential(self.project(own) - memory.note(MEAN_KEY)[:, None])

    def score(self, query: Tensor, keys: Tensor) -> Tensor:
        """See `Attention.score`: of e^2q (B, K, A) and e^2k (B, L, A)."""
        return self.compare(query, keys, self.energy.weight[0])


def plain_scores(query: Tensor, keys: Tensor, energy: Tensor) -> Tensor:
    """Score v . tanh(q + k) as the formula has it: what `additive_scores` of the exponentials is equal to.

    Args:
        query: (B, K, A) q.
        keys: (B, L, A) k.
        energy: (A,) v.

    Returns:
        (B, K, L).
    """
    return (query[:, :, None] + keys[:, None]).tanh() @ energy


def exponential(projected: Tensor) -> Tensor:
    """e^2x of a projected query or key, at least in float32: what `additive_scores` compares."""
    return (2 * precise(projected).clamp(-LARGEST, LARGEST)).exp()


def additive_scores(query: Tensor, keys: Tensor, energy: Tensor) -> Tensor:
    """Score v . tanh(q + k) for every query and key of an image.

    Args:
        query: (B, K, A) e^2q, see `exponential`.
        keys: (B, L, A) e^2k.
        energy: (A,) v.

    Returns:
        (B, K, L), in the number format of the keys.
    """
    with without_autocast(keys.device):
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
    return in_blocks(lambda q, k: (reciprocals(q, k) @ energy,), query, keys)[0]


def slope_sums(query: Tensor, keys: Tensor, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """With s = r - r^2 and g (B, K, L): sum_l g s (B, K, A), sum_k g s (B, L, A) and the sum of g r, (A,)."""

    def sums(q: Tensor, k: Tensor, g: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        r = reciprocals(q, k)
        weighted = g[..., None] * r
        of_energy = weighted.sum(dim=(1, 2))
        slopes = weighted.addcmul_(weighted, r, value=-1)
        return slopes.sum(dim=2), slopes.sum(dim=1), of_energy

    of_query, of_keys, of_energy = in_blocks(sums, query, keys, grad)
    return of_query, of_keys, of_energy.sum(dim=0)


def reciprocals(query: Tensor, keys: Tensor) -> Tensor:
    """The r (b, K, L, A) of queries and keys."""
    return (query[:, :, None] * keys[:, None]).add_(1).reciprocal_()


def in_blocks(work: Callable[..., tuple[Tensor, ...]], *tensors: Tensor) -> tuple[Tensor, ...]:
    """What some work gives of a few images at a time; of all where the compiler makes one loop of it, or on a GPU."""
    query, keys, *_ = tensors
    if torch.compiler.is_compiling() or keys.device.type != "cpu":
        return work(*tensors)
    each = query.shape[1] * keys.shape[1] * keys.shape[2]
    blocks = zip(*(tensor.split(max(1, BLOCK_SIZE // max(1, each))) for tensor in tensors), strict=True)
    return tuple(map(torch.cat, zip(*(work(*block) for block in blocks), strict=True)))
