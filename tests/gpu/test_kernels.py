"""Triton's kernels on a GPU: the plain formula, forward and backward, whatever the sizes."""

from __future__ import annotations

import pytest
import torch

from captioner.models import AdditiveAttention
from captioner.models.attention import additive
from captioner.types import Memory

SIZES = [  # images, sequences, locations, channels; most do not divide into tiles
    (1, 1, 1, 1),
    (2, 3, 21, 70),
    (2, 5, 16, 64),
    (3, 7, 50, 130),
    (1, 40, 17, 65),
    (32, 5, 196, 512),
]


def scored(query, keys, energy, grad, score) -> tuple[torch.Tensor, ...]:
    """Scores, and the gradients of q, k and v."""
    leaves = [tensor.detach().clone().requires_grad_() for tensor in (query, keys, energy)]
    scores = score(*leaves)
    return scores.detach(), *torch.autograd.grad(scores, leaves, grad)


def by_exponentials(query, keys, energy):
    return additive.additive_scores(additive.exponential(query), additive.exponential(keys), energy)


def draw(sizes, device):
    images, sequences, locations, channels = sizes
    shapes = [(images, sequences, channels), (images, locations, channels), (channels,), (images, sequences, locations)]
    return [torch.randn(shape, dtype=torch.float64).to(device) for shape in shapes]


def distance(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.double() - expected.double()).norm() / expected.double().norm().clamp(min=1e-12))


def test_triton_is_there(cuda):
    """Otherwise these tests look at the formula that goes without."""
    assert additive._triton_works(cuda)


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_scores_and_slopes_in_single_precision(device, sizes):
    drawn = draw(sizes, device)
    expected = scored(*drawn, additive.plain_scores)
    found = scored(*[tensor.float() for tensor in drawn], by_exponentials)
    for one, other in zip(found, expected, strict=True):
        assert distance(one, other) < 1e-4


@pytest.mark.parametrize("sizes", SIZES[:4], ids=str)
def test_bfloat16_goes_in_and_single_precision_is_summed(device, sizes):
    """As products under autocast give queries and keys."""
    drawn = [tensor.bfloat16() for tensor in draw(sizes, device)]
    with torch.autocast(device.type, torch.bfloat16):
        found = scored(*drawn[:3], drawn[3].float(), by_exponentials)
    expected = scored(*[tensor.double() for tensor in drawn], additive.plain_scores)
    assert found[0].dtype == torch.float32
    assert distance(found[0], expected[0]) < 1e-4
    for one, other in zip(found[1:], expected[1:], strict=True):
        assert distance(one, other) < 1e-2  # gradients are rounded to bfloat16


def test_large_numbers_overflow_nowhere(device):
    drawn = [100 * tensor.float() for tensor in draw((2, 3, 21, 70), device)]
    for tensor in scored(*drawn, by_exponentials):
        assert tensor.isfinite().all()


def test_the_same_inputs_give_the_same_bits(cuda):
    drawn = [tensor.float() for tensor in draw((8, 5, 49, 256), cuda)]
    first = scored(*drawn, by_exponentials)
    for _ in range(5):
        assert all(map(torch.equal, first, scored(*drawn, by_exponentials)))


def test_tensors_that_are_not_contiguous(device):
    query, keys, energy, grad = draw((3, 4, 20, 66), device)
    expected = scored(query, keys, energy, grad, additive.plain_scores)
    turned = [tensor.float().transpose(0, 1).contiguous().transpose(0, 1) for tensor in (query, keys, grad)]
    found = scored(turned[0], turned[1], energy.float(), turned[2], by_exponentials)
    for one, other in zip(found, expected, strict=True):
        assert distance(one, other) < 1e-4


def test_masked_locations_get_nothing(device):
    """A whole look, padding and all, is what it is on the CPU in double precision."""
    attention = AdditiveAttention(40, 24, 70).double()
    features, query = torch.randn(3, 30, 40, dtype=torch.float64), torch.randn(3, 5, 24, dtype=torch.float64)
    mask = torch.arange(30) < torch.tensor([[30], [17], [1]])

    def look(device: torch.device, dtype: torch.dtype) -> list[torch.Tensor]:
        part = attention.to(device, dtype)
        part.zero_grad()
        seen = features.detach().to(device, dtype).clone().requires_grad_()
        memory = Memory.from_regions(seen, mask.to(device), torch.zeros(3, 30, 4, device=device))
        context, alpha, _ = part(query.to(device, dtype), part.prepare(memory))
        (context.square().sum() + alpha.square().sum()).backward()
        found = [context, alpha, seen.grad, *(weight.grad for weight in part.parameters())]
        return [tensor.detach().double().cpu() for tensor in found]

    expected = look(torch.device("cpu"), torch.float64)
    found = look(device, torch.float32)
    assert (found[1][~mask[:, None].expand(3, 5, 30)] == 0).all()
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4 * float(other.abs().max()) + 1e-7, rtol=1e-3)
