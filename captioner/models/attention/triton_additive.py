"""`additive_scores` on CUDA: Triton kernels in which the (B, K, L, A) intermediate never leaves the registers.

With r = 1 / (1 + e^2q e^2k), as in `additive`, whose functions of the same names these are tested against. All sums are
made in one order, so that the same inputs give the same bits.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

LOCATIONS, CHANNELS = 16, 64  # of a program's tile


def weighted_sums(query: Tensor, keys: Tensor, energy: Tensor) -> Tensor:
    """sum_a v_a r_a: (B, K, A), (B, L, A) and (A,) to (B, K, L)."""
    (images, sequences, channels), locations = query.shape, keys.shape[1]
    sums = torch.empty(images, sequences, locations, dtype=keys.dtype, device=keys.device)
    grid = (triton.cdiv(locations, LOCATIONS), sequences, images)
    with _launching_on(keys.device):
        _weighted_sums[grid](
            query.contiguous(), keys.contiguous(), energy.contiguous(), sums, locations, channels, LOCATIONS, CHANNELS
        )
    return sums


def slope_sums(query: Tensor, keys: Tensor, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """With s = r - r^2 and g (B, K, L): sum_l g s (B, K, A), sum_k g s (B, L, A) and the sum of g r, (A,)."""
    (images, sequences, channels), locations = query.shape, keys.shape[1]
    query, keys, grad = query.contiguous(), keys.contiguous(), grad.contiguous()
    of_query, of_energy, of_keys = torch.empty_like(query), torch.empty_like(query), torch.empty_like(keys)
    blocks = triton.cdiv(channels, CHANNELS)
    with _launching_on(keys.device):
        _over_locations[(blocks, sequences, images)](
            query, keys, grad, of_query, of_energy, locations, channels, LOCATIONS, CHANNELS
        )
        _over_sequences[(triton.cdiv(locations, LOCATIONS), blocks, images)](
            query, keys, grad, of_keys, sequences, locations, channels, LOCATIONS, CHANNELS
        )
    return of_query, of_keys, of_energy.sum(dim=(0, 1))


def _launching_on(device: torch.device) -> AbstractContextManager[Any]:
    """Triton launches on the current GPU, which need not be the tensors'; its interpreter takes those of a CPU."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


@triton.jit
def _weighted_sums(
    query, keys, energy, sums, num_locations, num_channels, block_l: tl.constexpr, block_a: tl.constexpr
):
    """A few locations of one sequence, over all channels."""
    sequence = tl.program_id(2).to(tl.int64) * tl.num_programs(1) + tl.program_id(1)  # among those of all images
    location = tl.program_id(0) * block_l + tl.arange(0, block_l)
    row = tl.program_id(2).to(tl.int64) * num_locations + location
    real = location < num_locations
    total = tl.zeros((block_l,), dtype=sums.dtype.element_ty)
    for start in range(0, num_channels, block_a):
        channel = start + tl.arange(0, block_a)
        inside = channel < num_channels
        q = tl.load(query + sequence * num_channels + channel, mask=inside, other=0.0)
        v = tl.load(energy + channel, mask=inside, other=0.0)
        tile = real[:, None] & inside[None, :]
        k = tl.load(keys + row[:, None] * num_channels + channel[None, :], mask=tile, other=0.0)
        total += tl.sum(v[None, :] / (1.0 + q[None, :] * k), axis=1)
    tl.store(sums + sequence * num_locations + location, total, mask=real)


@triton.jit
def _over_locations(
    query, keys, grad, of_query, of_energy, num_locations, num_channels, block_l: tl.constexpr, block_a: tl.constexpr
):
    """A few channels of one sequence, over all locations."""
    sequence = tl.program_id(2).to(tl.int64) * tl.num_programs(1) + tl.program_id(1)
    channel = tl.program_id(0) * block_a + tl.arange(0, block_a)
    inside = channel < num_channels
    q = tl.load(query + sequence * num_channels + channel, mask=inside, other=0.0)
    slopes = tl.zeros((block_a,), dtype=of_query.dtype.element_ty)
    reciprocals = tl.zeros((block_a,), dtype=of_query.dtype.element_ty)
    for start in range(0, num_locations, block_l):
        location = start + tl.arange(0, block_l)
        real = location < num_locations
        row = tl.program_id(2).to(tl.int64) * num_locations + location
        tile = real[:, None] & inside[None, :]
        k = tl.load(keys + row[:, None] * num_channels + channel[None, :], mask=tile, other=0.0)
        g = tl.load(grad + sequence * num_locations + location, mask=real, other=0.0)
        r = 1.0 / (1.0 + q[None, :] * k)
        slopes += tl.sum(g[:, None] * (r - r * r), axis=0)
        reciprocals += tl.sum(g[:, None] * r, axis=0)
    tl.store(of_query + sequence * num_channels + channel, slopes, mask=inside)
    tl.store(of_energy + sequence * num_channels + channel, reciprocals, mask=inside)


@triton.jit
def _over_sequences(
    query,
    keys,
    grad,
    of_keys,
    num_sequences,
    num_locations,
    num_channels,
    block_l: tl.constexpr,
    block_a: tl.constexpr,
):
    """A few channels of a few locations, over all sequences of the image."""
    image = tl.program_id(2).to(tl.int64)
    location = tl.program_id(0) * block_l + tl.arange(0, block_l)
    channel = tl.program_id(1) * block_a + tl.arange(0, block_a)
    real, inside = location < num_locations, channel < num_channels
    place = (image * num_locations + location)[:, None] * num_channels + channel[None, :]
    tile = real[:, None] & inside[None, :]
    k = tl.load(keys + place, mask=tile, other=0.0)
    slopes = tl.zeros((block_l, block_a), dtype=of_keys.dtype.element_ty)
    for number in range(0, num_sequences):
        sequence = image * num_sequences + number
        q = tl.load(query + sequence * num_channels + channel, mask=inside, other=0.0)
        g = tl.load(grad + sequence * num_locations + location, mask=real, other=0.0)
        r = 1.0 / (1.0 + q[None, :] * k)
        slopes += g[:, None] * (r - r * r)
    tl.store(of_keys + place, slopes, mask=tile)
