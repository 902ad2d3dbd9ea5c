"""The fast additive scores against the plain formula, block by block, compiled, and in Triton."""

from __future__ import annotations

import shutil

import pytest
import torch

from captioner.decoding import BeamSearch, Rules
from captioner.losses import CaptionLoss
from captioner.models import ShowAttendTell
from captioner.models.attention import additive
from captioner.models.attention.additive import additive_scores, exponential
from captioner.types import Memory

B, K, L, A = 3, 4, 5, 7


def inputs(dtype=torch.float64, scale=1.0):
    generator = torch.Generator().manual_seed(0)
    query, keys = ((scale * torch.randn(B, n, A, generator=generator, dtype=dtype)).requires_grad_() for n in (K, L))
    return query, keys, torch.randn(A, generator=generator, dtype=dtype).requires_grad_()


def plain(query, keys, energy):
    return (query[:, :, None] + keys[:, None]).tanh() @ energy


def fast(query, keys, energy):
    return additive_scores(exponential(query), exponential(keys), energy)


def with_gradients(scores, tensors):
    """Scores, and the gradients of some function of them."""
    found = scores(*tensors)
    weights = torch.linspace(-1, 2, found.numel(), dtype=found.dtype).view_as(found)
    return [found, *torch.autograd.grad((found * weights).sum(), tensors)]


@pytest.mark.parametrize("block_size", [1, 2 * K * L * A, 2**19])
def test_scores_and_gradients_are_those_of_the_formula(monkeypatch, block_size):
    monkeypatch.setattr(additive, "BLOCK_SIZE", block_size)
    tensors = inputs()
    torch.testing.assert_close(with_gradients(fast, tensors), with_gradients(plain, tensors), atol=1e-12, rtol=1e-9)


def test_single_precision_is_as_exact_as_tanh():
    tensors = inputs(torch.float32)
    torch.testing.assert_close(with_gradients(fast, tensors), with_gradients(plain, tensors), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("scale", [15.0, 1e4])
def test_saturated_scores_are_right_and_finite(scale):
    query, keys, energy = inputs(torch.float32, scale)
    found = with_gradients(fast, (query.abs().detach().requires_grad_(), keys, energy))
    assert all(tensor.isfinite().all() for tensor in found)
    same_side = fast(query.abs(), keys.abs(), energy)
    torch.testing.assert_close(same_side, plain(query.abs(), keys.abs(), energy), atol=1e-5, rtol=1e-5)


def test_large_queries_and_keys_of_opposite_signs_cancel():
    query, keys, energy = inputs(torch.float32)
    torch.testing.assert_close(fast(query + 25, keys - 25, energy), plain(query, keys, energy), atol=1e-3, rtol=1e-3)


def test_the_intermediate_is_not_kept():
    query, keys, energy = inputs()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.numel()), lambda _: None):
        fast(query, keys, energy)
    assert max(kept) < B * K * L * A


def test_autocast_compares_in_full_precision():
    query, keys, energy = (tensor.detach().float() for tensor in inputs())
    with torch.autocast("cpu", torch.bfloat16):
        found = fast(query, keys, energy)
    assert found.dtype == torch.float32
    assert torch.equal(found, fast(query, keys, energy))


@pytest.mark.skipif(shutil.which("g++") is None, reason="the compiler needs a C++ compiler")
def test_a_compiled_decoder_learns_and_says_the_same():
    torch.manual_seed(0)
    decoder = ShowAttendTell(6, 11, embed_dim=8, hidden_dim=8, dropout=0.0)
    source, tokens = Memory.from_grid(torch.randn(B, 6, 2, 4)), torch.randint(11, (B, K, 6))
    lengths = torch.tensor([[5, 4, 3, 2]] * B)

    def learn():
        sums = CaptionLoss()(decoder(decoder.prepare(source), tokens, lengths), tokens[..., 1:])
        return [sums.total, *torch.autograd.grad(sums.total, list(decoder.parameters()))]

    @torch.no_grad()
    def say():
        memory = decoder.prepare(source)
        step = lambda words, state: decoder.step(words, state, memory)  # noqa: E731
        return [best.tokens for [best] in BeamSearch(3)(step, decoder.init_state(memory, 1), Rules(1, 2, (0, 1)))]

    expected, said = learn(), say()
    names = list(decoder.state_dict())
    decoder.compile(dynamic=True)
    assert list(decoder.state_dict()) == names
    assert decoder.attention.compare is not additive_scores
    torch.testing.assert_close(learn(), expected, atol=1e-4, rtol=1e-4)
    assert say() == said
