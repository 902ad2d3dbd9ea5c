"""The contract of every normaliser. A new one is tested by existing, and by its threshold or formula below."""

from __future__ import annotations

import math

import pytest
import torch

import captioner.models.attention as room
from captioner.models.attention import Entmax15, Normaliser, Softmax, Sparsemax

ALL = sorted(
    (cls for cls in Normaliser.__subclasses__() if cls.__module__.startswith("captioner.")),
    key=lambda cls: cls.__name__,
)


def thresholded(power: float, scale: float):
    """max(scale * e_i - tau, 0) ** power, with tau found by halving the interval that holds it."""

    def weights(scores):
        low, high = scale * max(scores) - 1, scale * max(scores)
        for _ in range(200):
            tau = (low + high) / 2
            if sum(max(scale * score - tau, 0) ** power for score in scores) > 1:
                low = tau
            else:
                high = tau
        return [max(scale * score - tau, 0) ** power for score in scores]

    return weights


def exponential(scores):
    total = sum(math.exp(score) for score in scores)
    return [math.exp(score) / total for score in scores]


EQUATIONS = {Softmax: exponential, Sparsemax: thresholded(1, 1), Entmax15: thresholded(2, 0.5)}


@pytest.fixture(params=ALL, ids=lambda cls: cls.__name__)
def normaliser(request):
    return request.param()


def random_scores(*shape: int, scale: float = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return scale * torch.randn(*shape, dtype=torch.float64, generator=generator)


def test_every_normaliser_is_exported_and_has_its_equation_here():
    assert {Softmax, Sparsemax, Entmax15} <= set(ALL)
    assert all(cls.__name__ in room.__all__ and cls in EQUATIONS for cls in ALL)


@pytest.mark.parametrize("scale", [0.1, 1, 4])
def test_weights_are_the_equation(normaliser, scale):
    scores = random_scores(6, 7, scale=scale)
    for row, weights in zip(scores.tolist(), normaliser(scores).tolist(), strict=True):
        assert weights == pytest.approx(EQUATIONS[type(normaliser)](row), abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scale", [0.01, 1, 1e4])
def test_rows_sum_to_1_in_every_number_format(normaliser, dtype, scale):
    scores = random_scores(50, 300, scale=scale).to(dtype)
    weights = normaliser(scores)
    assert weights.dtype == torch.promote_types(dtype, torch.float32)
    assert (weights >= 0).all()
    torch.testing.assert_close(weights.sum(-1), torch.ones(50, dtype=weights.dtype), atol=3e-6, rtol=0)
    torch.testing.assert_close(weights.double(), normaliser(scores.double()), atol=3e-6, rtol=0)


def test_minus_infinity_gets_nothing_and_is_as_good_as_absent(normaliser):
    scores = random_scores(4, 6)
    masked = scores.clone()
    masked[1, 2:] = masked[2, ::2] = -torch.inf
    masked[3, 1:] = -torch.inf  # one location is left
    for row, weights in zip(masked, normaliser(masked), strict=True):
        assert not weights[row.isinf()].any()
        torch.testing.assert_close(weights[row.isfinite()], normaliser(row[row.isfinite()][None])[0])
    assert normaliser(masked)[3, 0] == 1


@pytest.mark.parametrize("scores", [[1e6, 0, -1e6], [1e30, -torch.inf, -torch.inf], [-torch.inf, -1e30, -torch.inf]])
def test_large_scores_stay_finite(normaliser, scores):
    scores = torch.tensor([scores], requires_grad=True)
    weights = normaliser(scores)
    assert sorted(weights[0].tolist()) == [0, 0, 1]
    weights[0, 0].backward()
    assert scores.grad.isfinite().all()


def test_many_equal_scores_share_evenly(normaliser):
    torch.testing.assert_close(normaliser(torch.full((1, 1000), 3.7)), torch.full((1, 1000), 1e-3))


def test_a_permutation_of_scores_permutes_the_weights(normaliser):
    scores, order = random_scores(5, 8), torch.randperm(8, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(normaliser(scores[:, order]), normaliser(scores)[:, order])


def test_what_all_scores_have_in_common_changes_nothing(normaliser):
    scores = random_scores(5, 8)
    torch.testing.assert_close(normaliser(scores + 37), normaliser(scores))


def test_a_higher_score_never_gets_less(normaliser):
    weights = normaliser(random_scores(50, 8).sort(dim=-1).values)
    assert (weights.diff(dim=-1) >= -1e-12).all()


def test_leading_dimensions_are_apart(normaliser):
    scores = random_scores(2, 3, 4, 5)
    torch.testing.assert_close(normaliser(scores), normaliser(scores.view(-1, 5)).view(2, 3, 4, 5))


def test_gradients_are_right(normaliser):
    scores = random_scores(6, 5, scale=1).requires_grad_()
    padding = torch.zeros(6, 5, dtype=torch.bool)
    padding[1, 3:] = padding[2, 1:] = True
    assert torch.autograd.gradcheck(lambda scores: normaliser(scores.masked_fill(padding, -torch.inf)), scores)


CASES = [  # worked out by hand
    (Sparsemax, [1.0, 0.8, 0.1], [0.6, 0.4, 0.0]),  # tau = (1.8 - 1) / 2
    (Sparsemax, [0.5, 0.0], [0.75, 0.25]),
    (Sparsemax, [1.0, 0.0], [1.0, 0.0]),
    (Entmax15, [1.0, 0.0], [(1 + math.sqrt(7)) ** 2 / 16, (1 - math.sqrt(7)) ** 2 / 16]),  # tau = (1 - sqrt 7) / 4
    (Entmax15, [2.0, 0.0], [1.0, 0.0]),
    (Softmax, [math.log(3), 0.0], [0.75, 0.25]),
]


@pytest.mark.parametrize(("cls", "scores", "weights"), CASES)
def test_known_cases(cls, scores, weights):
    assert cls()(torch.tensor([scores], dtype=torch.float64))[0].tolist() == pytest.approx(weights, abs=1e-12)


def test_the_sparse_ones_give_exactly_nothing_to_most():
    scores = random_scores(20, 100)
    share = {cls: (cls()(scores) > 0).double().mean().item() for cls in (Sparsemax, Entmax15, Softmax)}
    assert share[Sparsemax] < share[Entmax15] < 0.2
    assert share[Softmax] == 1
