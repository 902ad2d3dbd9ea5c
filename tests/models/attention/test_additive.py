"""The fast additive scores against the plain formula, block by block, compiled, and in Triton."""

from __future__ import annotations

import shutil

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from captioner.decoding import BeamSearch, Rules
from captioner.losses import CaptionLoss
from captioner.models import ShowAttendTell
from captioner.models.attention import AdditiveAttention, additive
from captioner.models.attention.additive import MEAN_KEY, additive_scores, exponential, plain_scores
from captioner.types import Memory

B, K, L, A = 3, 4, 5, 7


def inputs(dtype=torch.float64, scale=1.0):
    generator = torch.Generator().manual_seed(0)
    query, keys = ((scale * torch.randn(B, n, A, generator=generator, dtype=dtype)).requires_grad_() for n in (K, L))
    return query, keys, torch.randn(A, generator=generator, dtype=dtype).requires_grad_()


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
    torch.testing.assert_close(
        with_gradients(fast, tensors), with_gradients(plain_scores, tensors), atol=1e-12, rtol=1e-9
    )


def test_single_precision_is_as_exact_as_tanh():
    tensors = inputs(torch.float32)
    torch.testing.assert_close(
        with_gradients(fast, tensors), with_gradients(plain_scores, tensors), atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("scale", [15.0, 1e4])
def test_saturated_scores_are_right_and_finite(scale):
    query, keys, energy = inputs(torch.float32, scale)
    found = with_gradients(fast, (query.abs().detach().requires_grad_(), keys, energy))
    assert all(tensor.isfinite().all() for tensor in found)
    same_side = fast(query.abs(), keys.abs(), energy)
    torch.testing.assert_close(same_side, plain_scores(query.abs(), keys.abs(), energy), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [15.0, 30.0, 44.0, 1000.0])
def test_large_queries_and_keys_of_opposite_signs_cancel(size):
    """Of one sign in an image, as large as they like: the mean key goes to the queries, and no sum changes."""
    attention = AdditiveAttention(A, A, A, bias=False)
    query, keys, energy = (tensor.detach() for tensor in inputs())
    with torch.no_grad():
        attention.key.weight.copy_(torch.eye(A))
        attention.query.weight.copy_(torch.eye(A))
        attention.energy.weight.copy_(energy[None])
    signs = size * torch.tensor([1.0, -1.0]).repeat(A)[:A]  # another in every second channel
    large = [(query + signs).float(), (keys - signs).float()]  # what of them is small is rounded here, not later
    expected = plain_scores(large[0].double(), large[1].double(), energy)

    def scores(query, features):
        memory = attention.prepare(Memory.from_words(features, torch.ones(B, L, dtype=torch.bool)))
        return attention.score(attention.ask(query, memory), memory.keys)

    torch.testing.assert_close(scores(*large).double(), expected, atol=1e-5 * size, rtol=0)
    found = with_gradients(lambda q, k: scores(q, k), [tensor.requires_grad_() for tensor in large])
    wanted = with_gradients(
        lambda q, k: plain_scores(q, k, energy), [t.detach().double().requires_grad_() for t in large]
    )
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one.double(), other, atol=1e-5 * size, rtol=1e-4)


@pytest.mark.parametrize("size", [15.0, 30.0])
def test_keys_of_both_signs_cancel_too(size):
    query, keys, energy = inputs(torch.float32)
    signs = torch.where(torch.rand(B, L, A) < 0.5, -size, size)
    query, keys = (query + size).detach().requires_grad_(), (keys + signs).detach().requires_grad_()
    found, expected = (with_gradients(scores, (query, keys, energy)) for scores in (fast, plain_scores))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_padding_is_no_part_of_the_mean_key():
    attention = AdditiveAttention(A, A, 4)
    features, mask = torch.randn(1, 3, A), torch.tensor([[True, True, False]])
    features[:, 2] = 1e4
    alone = attention.prepare(Memory.from_words(features[:, :2], mask[:, :2]))
    padded = attention.prepare(Memory.from_words(features, mask))
    torch.testing.assert_close(padded.note(MEAN_KEY), alone.note(MEAN_KEY))


def test_with_a_sentinel_a_query_is_projected_once():
    attention = AdditiveAttention(A, A, 4)
    memory = attention.prepare(Memory.from_words(torch.randn(B, L, A), torch.ones(B, L, dtype=torch.bool)))
    calls = []
    attention.query.register_forward_hook(lambda *_: calls.append(1))
    attention(torch.randn(B, K, A), memory, sentinel=torch.randn(B, K, A))
    assert calls == [1]


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
        found = BeamSearch(3)(*decoder.begin(decoder.prepare(source)), Rules(1, 2, (0, 1)))
        return [best.tokens for [best] in found]

    expected, said = learn(), say()
    names = list(decoder.state_dict())
    decoder.compile(dynamic=True)
    assert list(decoder.state_dict()) == names
    assert decoder.attention.compare is not additive_scores
    torch.testing.assert_close(learn(), expected, atol=1e-4, rtol=1e-4)
    assert say() == said


def test_scores_are_compiled_once_for_all_shapes():
    """Once with gradients and once without: a batch's last steps have one image, and greedy search one sequence."""
    attention, counter = AdditiveAttention(A, A, 4), CompileCounter()
    attention.compile(backend=counter, dynamic=True)
    for gradients in (True, False):
        for images, sequences, locations in [
            (4, 3, 5),
            (3, 3, 7),
            (2, 1, 5),
            (1, 2, 5),
            (1, 1, 6),
            (5, 4, 3),
            (2, 2, 2),
        ]:
            mask = torch.ones(images, locations, dtype=torch.bool)
            with torch.set_grad_enabled(gradients):
                memory = attention.prepare(Memory.from_words(torch.randn(images, locations, A), mask))
                query = torch.randn(images, sequences, A)
                found = attention.score(attention.ask(query, memory), memory.keys)
            expected = additive_scores(attention.ask(query, memory), memory.keys, attention.energy.weight[0])
            torch.testing.assert_close(found, expected)
    assert counter.frame_count == 2


def test_scores_are_exported_for_any_batch():
    attention = AdditiveAttention(A, A, 4)

    class Scores(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = attention

        def forward(self, query, features):
            memory = self.attention.prepare(Memory.from_words(features, features[..., 0] < 1e9))
            return self.attention(query, memory).alpha

    batch, length = torch.export.Dim("batch"), torch.export.Dim("length")
    inputs = torch.randn(3, 2, A), torch.randn(3, 5, A)
    with torch.no_grad():
        program = torch.export.export(Scores().eval(), inputs, dynamic_shapes=({0: batch}, {0: batch, 1: length}))
        for num_images, num_locations in ((3, 5), (7, 4), (2, 9)):
            inputs = torch.randn(num_images, 2, A), torch.randn(num_images, num_locations, A)
            torch.testing.assert_close(program.module()(*inputs), Scores().eval()(*inputs))
