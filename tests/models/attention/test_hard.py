"""Hard attention: what it draws, when, and that all it says of it can be differentiated."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from captioner.models.attention import (
    AdditiveAttention,
    Attention,
    GeneralAttention,
    HardAttention,
    LocalMonotonicAttention,
    LocalPredictiveAttention,
    MultiHeadAttention,
    Sparsemax,
    hard,
)
from captioner.models.attention.hard import SAMPLED, sample_locations
from captioner.types import Memory

FEATURE_DIM, QUERY_DIM, NUM_LOCATIONS = 6, 5, 5


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def build(scorer=GeneralAttention, sampling_probability: float = 1, **arguments) -> HardAttention:
    """In training mode, in double precision."""
    return HardAttention(FEATURE_DIM, QUERY_DIM, scorer, sampling_probability, **arguments).double()


def random_memory(attention: Attention) -> Memory:
    features = torch.randn(2, NUM_LOCATIONS, FEATURE_DIM, dtype=torch.float64)
    mask = torch.arange(NUM_LOCATIONS) < torch.tensor([5, 3])[:, None]
    return attention.prepare(Memory.from_words(features, mask))


def queries(num_sequences: int) -> Tensor:
    return torch.randn(2, num_sequences, QUERY_DIM, dtype=torch.float64)


def draw(monkeypatch, location: int) -> None:
    """Let every draw be this location."""
    monkeypatch.setattr(hard, "sample_locations", lambda alpha: torch.full(alpha.shape[:2], location, dtype=torch.long))


def test_by_default_it_draws_by_additive_scores_half_of_the_time():
    attention = HardAttention(FEATURE_DIM, QUERY_DIM)
    assert isinstance(attention.scorer, AdditiveAttention)
    assert attention.sampling_probability == 0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_locations_are_drawn_as_often_as_their_weights_say(dtype):
    alpha = torch.tensor([[0.5, 0.3, 0.2, 0], [0.05, 0, 0.95, 0], [1e-30, 0, 1, 0]], dtype=dtype)
    num_draws = 20_000
    drawn = sample_locations(alpha[None].expand(num_draws, -1, -1))
    assert drawn.shape == (num_draws, 3)
    shares = torch.nn.functional.one_hot(drawn, 4).to(dtype).mean(0)
    deviation = (alpha * (1 - alpha) / num_draws).sqrt()
    assert ((shares - alpha).abs() <= 4 * deviation).all()
    assert not shares[alpha == 0].any()


def test_draws_of_one_batch_are_independent():
    drawn = sample_locations(torch.full((1, 20_000, 2), 0.5))[0].double()
    assert abs(torch.corrcoef(torch.stack((drawn[:-1], drawn[1:])))[0, 1]) < 0.03


def test_a_sampled_context_is_one_real_annotation_vector():
    attention = build()
    memory = random_memory(attention)
    context, alpha, extras = attention(queries(50), memory)
    for image, num_real in enumerate([5, 3]):
        equal = (context[image][:, None] == memory.features[image]).all(-1)  # (K, L)
        assert (equal.sum(-1) == 1).all()
        assert set(equal.nonzero()[:, 1].tolist()) == set(range(num_real))
        torch.testing.assert_close(extras["sample_log_prob"][image], alpha[image][equal].log())


def test_alpha_is_the_scorers_and_its_entropy_is_told():
    attention = build()
    memory, query = random_memory(attention), queries(4)
    expected = attention.scorer(query, memory)
    _, alpha, extras = attention(query, memory)
    torch.testing.assert_close(alpha, expected.alpha)
    for row, entropy in zip(alpha.flatten(0, 1).tolist(), extras["entropy"].flatten().tolist(), strict=True):
        assert entropy == pytest.approx(-sum(weight * math.log(weight) for weight in row if weight))


@pytest.mark.parametrize("training", [False, True])
def test_otherwise_it_is_its_scorer(training):
    """In evaluation always, in training for batches that are not sampled."""
    attention = build(sampling_probability=0 if training else 1).train(training)
    memory, query = random_memory(attention), queries(4)
    assert SAMPLED not in memory.notes if not training else not memory.notes[SAMPLED].any()
    expected = attention.scorer(query, memory)
    attended = attention(query, memory)
    assert torch.equal(attended.context, expected.context)
    assert torch.equal(attended.alpha, expected.alpha)
    assert attended.extras["sample_log_prob"].shape == (2, 4) and not attended.extras["sample_log_prob"].any()
    torch.testing.assert_close(attended.extras["entropy"], torch.special.entr(expected.alpha).sum(-1))


def test_a_batch_is_sampled_as_often_as_asked_and_as_a_whole():
    attention = build(sampling_probability=0.3)
    memories = [random_memory(attention) for _ in range(500)]
    assert all(len(set(memory.notes[SAMPLED].tolist())) == 1 for memory in memories)
    share = sum(bool(memory.notes[SAMPLED][0]) for memory in memories) / 500
    assert abs(share - 0.3) < 4 * math.sqrt(0.3 * 0.7 / 500)
    for memory in memories[:20]:
        told = attention(queries(3), memory.first(1).map(lambda tensor: tensor.expand(2, *tensor.shape[1:])))
        assert (told.extras["sample_log_prob"] != 0).all() == memory.notes[SAMPLED][0]


def test_the_same_seed_draws_the_same():
    attention = build()
    memory, query = random_memory(attention), queries(4)
    first, second = (torch.manual_seed(3) and attention(query, memory) for _ in range(2))
    assert torch.equal(first.context, second.context)
    assert not torch.equal(first.context, attention(query, memory).context)


def test_log_probabilities_are_those_of_all_locations(monkeypatch):
    """Enumerated, they sum to 1, and the expected score function is 0."""
    attention = build()
    memory, query = random_memory(attention), queries(2).requires_grad_()
    total, expected_score = 0, 0
    for location in range(3):  # of the second image all that are real
        draw(monkeypatch, location)
        log_prob = attention(query, memory).extras["sample_log_prob"][1]
        (gradient,) = torch.autograd.grad(log_prob.sum(), query)
        total = total + log_prob.exp()
        expected_score = expected_score + log_prob.exp()[:, None] * gradient[1]
    torch.testing.assert_close(total, torch.ones(2, dtype=torch.float64))
    torch.testing.assert_close(expected_score, torch.zeros_like(expected_score))


@pytest.mark.parametrize("normaliser", [None, Sparsemax()])
def test_gradients_of_what_it_tells_are_right(monkeypatch, normaliser):
    """With padding, and with weights of exactly 0."""
    attention = build(normaliser=normaliser)
    memory = random_memory(attention)
    query = (0.3 * queries(3)).requires_grad_()
    draw(monkeypatch, int(attention(query, memory).alpha[0, 0].argmax()))

    def tell(query):
        context, alpha, extras = attention(query, memory)
        return context, alpha, extras["entropy"], extras["sample_log_prob"][0, 0]

    assert torch.autograd.gradcheck(tell, query)


@pytest.mark.parametrize("normaliser", [None, Sparsemax()])
def test_gradients_stay_finite_where_weights_are_0(normaliser):
    attention = build(normaliser=normaliser).float()
    memory = attention.prepare(Memory.from_words(torch.randn(1, 4, 6), torch.tensor([[True, True, True, False]])))
    query = (1e4 * torch.randn(1, 8, QUERY_DIM)).requires_grad_()
    context, _, extras = attention(query, memory)
    assert extras["entropy"].isfinite().all() and extras["sample_log_prob"].isfinite().all()
    (context.sum() + extras["entropy"].sum() + extras["sample_log_prob"].sum()).backward()
    assert query.grad.isfinite().all()


def test_no_gradient_reaches_the_scorer_through_a_sampled_context():
    attention = build()
    query = queries(3).requires_grad_()
    attention(query, random_memory(attention)).context.sum().backward()
    assert not query.grad.any()


def test_it_draws_within_a_window():
    attention = build(lambda feature_dim, query_dim: LocalMonotonicAttention(feature_dim, query_dim, window=1))
    memory = random_memory(attention)
    context, alpha, _ = attention(queries(40), memory, torch.zeros(2, 40, dtype=torch.long))
    drawn = (context[:, :, None] == memory.features[:, None]).all(-1)
    assert drawn[..., :2].any(-1).all() and not alpha[..., 2:].any()


def of_heads(feature_dim: int, query_dim: int) -> Attention:
    return LocalMonotonicAttention(feature_dim, query_dim, MultiHeadAttention)


@pytest.mark.parametrize(
    ("scorer", "message"),
    [
        (MultiHeadAttention, "its scorer has 8 heads: choose another scorer"),
        (of_heads, "its scorer has 8 heads: choose another scorer"),
        (LocalPredictiveAttention, "those of LocalPredictiveAttention do not: choose another scorer"),
        (HardAttention, "one draw is enough"),
    ],
)
def test_scorers_that_nothing_can_be_drawn_by_are_refused(scorer, message):
    with pytest.raises(ValueError, match=message):
        build(scorer)


@pytest.mark.parametrize("probability", [-0.1, 1.1, math.nan])
def test_a_probability_that_is_none_is_refused(probability):
    with pytest.raises(ValueError, match="sampling_probability must be a number from 0 to 1"):
        build(sampling_probability=probability)
