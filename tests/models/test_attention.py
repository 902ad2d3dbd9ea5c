"""The contract of every attention scorer. A new one is tested by existing, and by its equation below."""

from __future__ import annotations

import importlib
import inspect
import math
import pkgutil
from dataclasses import replace

import pytest
import torch

import captioner.models
from captioner.models import AdditiveAttention, Attention
from captioner.types import Memory

FEATURE_DIM, QUERY_DIM = 6, 5


def additive(scorer, query, vector):
    """v . tanh(W_a a_i + W_h h + b), one coordinate at a time."""
    score = 0.0
    for unit in range(scorer.attention_dim):
        inside = scorer.key.bias[unit].item()
        inside += sum(w * a for w, a in zip(scorer.key.weight[unit].tolist(), vector, strict=True))
        inside += sum(w * h for w, h in zip(scorer.query.weight[unit].tolist(), query, strict=True))
        score += scorer.energy.weight[0, unit].item() * math.tanh(inside)
    return score


EQUATIONS = {AdditiveAttention: additive}  # the score of one query and one annotation vector, in plain numbers


def all_scorers() -> list[type[Attention]]:
    """Every scorer of the package that can be built."""
    for module in pkgutil.walk_packages(captioner.models.__path__, "captioner.models."):
        importlib.import_module(module.name)
    found, queue = [], [Attention]
    while queue:
        queue += (children := queue.pop().__subclasses__())
        found += [cls for cls in children if cls.__module__.startswith("captioner.") and not inspect.isabstract(cls)]
    return sorted(found, key=lambda cls: cls.__qualname__)


@pytest.fixture(params=all_scorers(), ids=lambda cls: cls.__name__)
def attention(request):
    """Every scorer, in double precision."""
    torch.manual_seed(0)
    return request.param(FEATURE_DIM, QUERY_DIM).double()


def random_memory(attention: Attention, num_real: list[int], num_locations: int = 5) -> Memory:
    features = torch.randn(len(num_real), num_locations, FEATURE_DIM, dtype=torch.float64)
    mask = torch.arange(num_locations) < torch.tensor(num_real)[:, None]
    return Memory(features, mask, keys=attention.project(features))


def queries(num_images: int, num_sequences: int) -> torch.Tensor:
    return torch.randn(num_images, num_sequences, QUERY_DIM, dtype=torch.float64)


def test_the_scorers_are_found():
    assert AdditiveAttention in all_scorers()


def test_every_scorer_has_its_equation_here(attention):
    assert type(attention) in EQUATIONS


def test_scores_are_the_equation(attention):
    memory, query = random_memory(attention, [5, 5]), queries(2, 3)
    scores = attention.score(query, memory.keys)
    assert scores.shape == (2, 3, 5)
    equation = EQUATIONS[type(attention)]
    for image, sequence, location in torch.ones(2, 3, 5).nonzero().tolist():
        expected = equation(attention, query[image, sequence].tolist(), memory.features[image, location].tolist())
        assert scores[image, sequence, location].item() == pytest.approx(expected, rel=1e-9)


def test_rows_sum_to_1_and_padding_gets_nothing(attention):
    memory = random_memory(attention, [5, 3, 1])
    alpha = attention(queries(3, 4), memory).alpha
    assert alpha.shape == (3, 4, 5)
    torch.testing.assert_close(alpha.sum(-1), torch.ones(3, 4, dtype=torch.float64))
    for image, num_real in enumerate([5, 3, 1]):
        assert (alpha[image, :, :num_real] > 0).all()
        assert not alpha[image, :, num_real:].any()


def test_the_context_is_the_weighted_mean(attention):
    memory = random_memory(attention, [5, 3])
    context, alpha = attention(queries(2, 4), memory)
    assert context.shape == (2, 4, FEATURE_DIM)
    for image, sequence in torch.ones(2, 4).nonzero().tolist():
        weighted = sum(alpha[image, sequence, i] * memory.features[image, i] for i in range(5))
        torch.testing.assert_close(context[image, sequence], weighted)


def test_padding_is_as_good_as_absent(attention):
    """Wherever it lies, and whatever it holds."""
    memory, query = random_memory(attention, [5, 5]), queries(2, 3)
    mask = torch.tensor([[True, False, True, True, False], [False, False, False, True, False]])
    padded = attention(query, replace(memory, mask=mask))
    for image in range(2):
        real = mask[image]
        alone = Memory(memory.features[image : image + 1, real], mask[image : image + 1, real])
        alone = replace(alone, keys=attention.project(alone.features))
        context, alpha = attention(query[image : image + 1], alone)
        torch.testing.assert_close(padded.context[image], context[0])
        torch.testing.assert_close(padded.alpha[image, :, real], alpha[0])


def test_sequences_and_images_know_nothing_of_each_other(attention):
    memory, query = random_memory(attention, [5, 3]), queries(2, 5)
    context, alpha = attention(query, memory)
    for image, sequence in torch.ones(2, 5).nonzero().tolist():
        one = Memory(memory.features[[image]], memory.mask[[image]], keys=memory.keys[[image]])
        attended = attention(query[image, sequence][None, None], one)
        torch.testing.assert_close(attended.context[0, 0], context[image, sequence])
        torch.testing.assert_close(attended.alpha[0, 0], alpha[image, sequence])


def test_attending_leaves_the_memory_as_it_was(attention):
    memory, query = random_memory(attention, [5, 3]), queries(2, 3)
    before = [tensor.clone() for tensor in (memory.features, memory.keys, query)]
    attention(query, memory)
    for tensor, clone in zip((memory.features, memory.keys, query), before, strict=True):
        assert torch.equal(tensor, clone)


def test_gradients_are_right(attention):
    mask = random_memory(attention, [4, 2], 4).mask

    def look(query, features):
        return attention(query, Memory(features, mask, keys=attention.project(features)))

    query = queries(2, 2).requires_grad_()
    features = torch.randn(2, 4, FEATURE_DIM, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(look, (query, features))
    look(query, features).context.square().sum().backward()
    assert all(parameter.grad.any() for parameter in attention.parameters())
    assert not features.grad[1, 2:].any()


def test_large_scores_stay_finite(attention):
    memory = random_memory(attention, [5, 1])
    context, alpha = attention(1e6 * queries(2, 3), memory)
    assert context.isfinite().all()
    torch.testing.assert_close(alpha.sum(-1), torch.ones(2, 3, dtype=torch.float64))
    assert not alpha[1, :, 1:].any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_are_exact_enough_in_half_precision(attention, dtype):
    attention = attention.to(dtype)
    features = torch.randn(2, 200, FEATURE_DIM, dtype=dtype)
    memory = Memory(features, torch.ones(2, 200, dtype=torch.bool), keys=attention.project(features))
    context, alpha = attention(torch.randn(2, 3, QUERY_DIM, dtype=dtype), memory)
    assert (context.dtype, alpha.dtype) == (dtype, torch.float32)
    torch.testing.assert_close(alpha.sum(-1), torch.ones(2, 3))


def test_a_memory_without_keys_is_refused(attention):
    memory = replace(random_memory(attention, [5]), keys=None)
    with pytest.raises(ValueError, match="prepare"):
        attention(queries(1, 1), memory)
