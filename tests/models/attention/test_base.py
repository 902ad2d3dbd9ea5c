"""The contract of every attention. A new scorer is tested by existing, and by its equation below."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from attention_cases import (
    ARGUMENTS,
    FEATURE_DIM,
    NUM_LOCATIONS,
    QUERY_DIM,
    FirstNumber,
    build,
    grid_memory,
    look,
    memories,
    queries,
    random_memory,
    steps,
)
from attention_equations import EQUATIONS

import captioner.models
from captioner.models import attention as room
from captioner.models.attention import (
    AdditiveAttention,
    Attention,
    Entmax15,
    HardAttention,
    LocalMonotonicAttention,
    LocalPredictiveAttention,
    LocationAttention,
    MultiHeadAttention,
    Softmax,
    Sparsemax,
)
from captioner.types import Memory


def all_scorers() -> list[type[Attention]]:
    """Every scorer of the package that can be built."""
    for module in pkgutil.walk_packages(captioner.models.__path__, "captioner.models."):
        importlib.import_module(module.name)
    found, queue = set(), [Attention]
    while queue:
        queue += (children := queue.pop().__subclasses__())
        found |= {cls for cls in children if cls.__module__.startswith("captioner.") and not inspect.isabstract(cls)}
    return sorted(found, key=lambda cls: cls.__qualname__)


def cases(normalisers: Sequence[type]) -> list:
    """All classes with all of their arguments, and with every normaliser."""
    made = []
    for cls in all_scorers():
        for number, arguments in enumerate(ARGUMENTS.get(cls, [{}])):
            for normaliser in normalisers if number == 0 else normalisers[:1]:
                name = "-".join([cls.__name__, *(f"{key}={value}" for key, value in arguments.items() if number)])
                made.append(pytest.param((cls, arguments, normaliser), id=f"{name}-{normaliser.__name__}"))
    return made


@pytest.fixture(params=cases([Softmax, Sparsemax, Entmax15]))
def attention(request):
    """Every attention, with every normaliser, in double precision and evaluation mode."""
    cls, arguments, normaliser = request.param
    return build(cls, arguments, normaliser=normaliser())


@pytest.fixture(params=cases([Softmax]))
def softly(request):
    """Every attention with a softmax: for tests that have it in them, or that normalisers change nothing about."""
    cls, arguments, normaliser = request.param
    return build(cls, arguments, normaliser=normaliser())


def test_the_scorers_are_found_and_exported():
    assert {AdditiveAttention, LocalPredictiveAttention, HardAttention} <= set(all_scorers())
    assert {cls.__name__ for cls in all_scorers()} <= set(room.__all__)


def test_every_argument_is_kept_under_its_name(softly):
    """A checkpoint describes a module by these."""
    for name in inspect.signature(type(softly)).parameters:
        assert hasattr(softly, name)
    assert list(inspect.signature(type(softly)).parameters)[:2] == ["feature_dim", "query_dim"]


def test_what_is_seen_is_the_equation(softly):
    memory, query = random_memory(softly, [6, 6]), queries(softly, 2, 4)
    attended = look(softly, query, memory)
    for image, sequence in torch.ones(2, 4).nonzero().tolist():
        alpha, context = EQUATIONS[type(softly)](
            softly, query[image, sequence].tolist(), memory.features[image].tolist(), 4 * image + sequence
        )
        assert attended.alpha[image, sequence].tolist() == pytest.approx(alpha, abs=1e-12)
        assert attended.context[image, sequence].tolist() == pytest.approx(context, abs=1e-12)


def test_rows_sum_to_1_and_padding_gets_nothing(attention):
    memory = random_memory(attention, [6, 3, 1])
    alpha = look(attention, queries(attention, 3, 4), memory).alpha
    assert alpha.shape == (3, 4, NUM_LOCATIONS)
    assert (alpha >= 0).all()
    if attention.rows_sum_to_1:
        torch.testing.assert_close(alpha.sum(-1), torch.ones(3, 4, dtype=torch.float64))
    else:
        assert (alpha.sum(-1) <= 1).all() and (alpha.sum(-1) > 0).all()
    for image, num_real in enumerate([6, 3, 1]):
        assert not alpha[image, :, num_real:].any()


def test_all_that_is_in_sight_gets_something(softly):
    memory, query = random_memory(softly, [6, 3, 1]), queries(softly, 3, 4)
    within = softly.focus(query, memory, steps(3, 4)).within.expand(3, 4, -1)
    assert torch.equal(look(softly, query, memory).alpha > 0, within)
    assert within.any(-1).all() and not (within & ~memory.mask[:, None]).any()


def test_the_context_is_the_weighted_mean(attention):
    memory = random_memory(attention, [6, 3])
    context, alpha, extras = look(attention, queries(attention, 2, 4), memory)
    assert context.shape == (2, 4, FEATURE_DIM)
    if "heads" not in extras:
        torch.testing.assert_close(context, torch.einsum("bkl,bld->bkd", alpha, memory.features))
        return
    assert extras["heads"].shape == (2, 4, attention.num_heads, NUM_LOCATIONS)
    torch.testing.assert_close(extras["heads"].mean(2), alpha)
    values = attention.value(memory.features).unflatten(-1, (attention.num_heads, -1))
    seen = torch.einsum("bknl,blna->bkna", extras["heads"], values).flatten(2)
    torch.testing.assert_close(context, attention.output(seen))


HOLES = torch.tensor([[True, False, True, True, False, True], [False, False, False, False, True, False]])
ENDS = torch.tensor([[True, True, True, False, False, False], [True, False, False, False, False, False]])


@pytest.mark.parametrize(("mask", "grids"), [(ENDS, [(1, 3), (1, 1)]), (HOLES, [(2, 2), (1, 1)])])
def test_padding_is_as_good_as_absent(attention, mask, grids):
    """Wherever it lies, and whatever it holds; but a score of places depends on these."""
    if isinstance(attention, LocationAttention) and mask is HOLES:
        return
    features, query = torch.randn(2, NUM_LOCATIONS, FEATURE_DIM, dtype=torch.float64), queries(attention, 2, 3)
    number = steps(2, 3)
    padded = attention(query, attention.prepare(grid_memory(features, mask)), number)
    for image, grid in enumerate(grids):
        real = mask[[image]]
        alone = attention.prepare(grid_memory(features[[image]][real][None], real[real][None], grid))
        context, alpha, _ = attention(query[[image]], alone, number[[image]])
        torch.testing.assert_close(padded.context[image], context[0])
        torch.testing.assert_close(padded.alpha[image][:, real[0]], alpha[0])


def test_sequences_and_images_know_nothing_of_each_other(attention):
    memory, query, number = random_memory(attention, [6, 3]), queries(attention, 2, 5), steps(2, 5)
    together = attention(query, memory, number)
    for image, sequence in torch.ones(2, 5).nonzero().tolist():
        one = memory.map(lambda tensor, image=image: tensor[[image]])
        apart = attention(query[[image]][:, [sequence]], one, number[[image]][:, [sequence]])
        torch.testing.assert_close(apart.context[0, 0], together.context[image, sequence])
        torch.testing.assert_close(apart.alpha[0, 0], together.alpha[image, sequence])
        assert apart.extras.keys() == together.extras.keys()
        for name, extra in apart.extras.items():
            torch.testing.assert_close(extra[0, 0], together.extras[name][image, sequence])


def test_attending_leaves_the_memory_as_it_was(softly):
    memory, query = random_memory(softly, [6, 3]), queries(softly, 2, 3)
    tensors = [
        tensor for tensor in (memory.features, memory.mask, memory.keys, memory.values, query) if tensor is not None
    ]
    before = [tensor.clone() for tensor in tensors]
    look(softly, query, memory)
    for tensor, clone in zip(tensors, before, strict=True):
        assert torch.equal(tensor, clone)


def test_gradients_are_right(attention):
    mask = torch.arange(NUM_LOCATIONS) < torch.tensor([6, 3])[:, None]

    def seen(query, features):
        attended = look(attention, query, attention.prepare(grid_memory(features, mask)))
        every = (attended.context, attended.alpha, *attended.extras.values())
        return tuple(tensor for tensor in every if tensor.requires_grad)  # gradcheck mixes up the others' places

    query = queries(attention, 2, 2).requires_grad_()
    features = torch.randn(2, NUM_LOCATIONS, FEATURE_DIM, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(seen, (query, features), fast_mode=True)
    seen(query, features)[0].square().sum().backward()
    assert not features.grad[1, 3:].any()


def test_every_parameter_is_used(softly):
    memory, query = random_memory(softly, [6, 6]), queries(softly, 2, 4).requires_grad_()
    look(softly, query, memory).context.square().sum().backward()
    assert query.grad.any() and all(parameter.grad.any() for parameter in softly.parameters())


def test_large_scores_stay_finite(attention):
    memory, query = random_memory(attention, [6, 1]), 1e6 * queries(attention, 2, 3)
    context, alpha, extras = look(attention, query.requires_grad_(), memory)
    assert all(tensor.isfinite().all() for tensor in (context, alpha, *extras.values()))
    assert not alpha[1, :, 1:].any()
    sum(tensor.sum() for tensor in (context, alpha, *extras.values())).backward()
    assert query.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_are_exact_enough_in_half_precision(attention, dtype):
    memory, query = random_memory(attention, [6, 3]), queries(attention, 2, 3)
    attention = attention.to(dtype)
    rounded = attention.prepare(grid_memory(memory.features.to(dtype), memory.mask))
    context, alpha, extras = look(attention, query.to(dtype), rounded)
    assert (context.dtype, alpha.dtype) == (dtype, torch.float32)
    assert all(extra.dtype == torch.float32 for extra in extras.values())
    if attention.rows_sum_to_1:
        torch.testing.assert_close(alpha.sum(-1), torch.ones(2, 3))


def test_autocast_attends_as_full_precision_does_nearly(softly):
    softly = softly.float()
    features, query = torch.randn(2, NUM_LOCATIONS, FEATURE_DIM), queries(softly, 2, 3).float()
    memory = grid_memory(features, torch.ones(2, NUM_LOCATIONS, dtype=torch.bool))
    exact = look(softly, query, softly.prepare(memory))
    with torch.autocast("cpu", torch.bfloat16):
        near = look(softly, query, softly.prepare(memory))
    assert near.alpha.dtype == torch.float32
    torch.testing.assert_close(near.alpha, exact.alpha, atol=0.05, rtol=0.05)
    torch.testing.assert_close(near.context.float(), exact.context, atol=0.1, rtol=0.1)


def test_nothing_waits_for_the_device(softly):
    """On the meta device no tensor has a value that could be asked for."""
    softly = softly.to("meta").train()
    memory = grid_memory(
        torch.empty(2, NUM_LOCATIONS, FEATURE_DIM, dtype=torch.float64, device="meta"),
        torch.ones(2, NUM_LOCATIONS, dtype=torch.bool, device="meta"),
    )
    query = torch.empty(2, 3, softly.query_dim, dtype=torch.float64, device="meta")
    attended = softly(query, softly.prepare(memory), torch.zeros(2, 3, dtype=torch.long, device="meta"))
    assert attended.context.shape == (2, 3, FEATURE_DIM)


def test_a_memory_without_keys_is_refused(softly):
    memory = replace(random_memory(softly, [6]), keys=None)
    with pytest.raises(ValueError, match="prepare"):
        look(softly, queries(softly, 1, 1), memory)


def table() -> dict[str, dict[str, bool]]:
    lines = [line.split() for line in room.__doc__.splitlines()]
    names = next(line for line in lines if line[:1] == ["scorer"])[1:]
    rows = [line for line in lines if len(line) == len(names) + 1 and {*line[1:]} <= {"yes", "no"}]
    return {name: dict(zip(names, (answer == "yes" for answer in answers), strict=True)) for name, *answers in rows}


PLENTY = {LocationAttention: {"num_locations": 10}}  # enough for all of these


def test_the_table_has_every_scorer():
    assert table().keys() == {cls.__name__ for cls in all_scorers()}


@pytest.mark.parametrize("kind", memories())
@pytest.mark.parametrize("cls", all_scorers(), ids=lambda cls: cls.__name__)
def test_a_memory_is_attended_to_or_refused_as_the_table_says(cls, kind):
    attention, memory = build(cls, PLENTY.get(cls)), memories()[kind]
    if not table()[cls.__name__][kind]:
        with pytest.raises(ValueError, match=f"{cls.__name__} is not defined over .*{kind}.*choose another attention"):
            attention.prepare(memory)
        return
    context, alpha, _ = look(attention, queries(attention, 2, 3), attention.prepare(memory))
    assert context.shape == (2, 3, FEATURE_DIM)
    assert not alpha[~memory.mask[:, None].expand_as(alpha)].any()
    assert (alpha.sum(-1) > 0).all()


@pytest.mark.parametrize("cls", all_scorers(), ids=lambda cls: cls.__name__)
def test_a_sentinel_is_weighed_or_refused_as_the_table_says(cls):
    attention = build(cls)
    memory, query = random_memory(attention, [6, 3]), queries(attention, 2, 3)
    sentinel = torch.randn(2, 3, FEATURE_DIM, dtype=torch.float64)
    if table()[cls.__name__]["sentinel"]:
        weight = look(attention, query, memory, sentinel).extras["sentinel"]
        assert weight.shape == (2, 3) and (weight > 0).all()
    else:
        with pytest.raises(ValueError, match="sentinel.*choose"):
            look(attention, query, memory, sentinel)


@pytest.mark.parametrize(
    ("cls", "arguments", "message"),
    [
        (MultiHeadAttention, {"num_heads": 3, "attention_dim": 8}, "attention_dim 8 must be a multiple of num_heads 3"),
        (MultiHeadAttention, {"num_heads": 0}, "num_heads must be a whole number from 1 to .*, not 0"),
        (LocalMonotonicAttention, {"window": 0}, "window must be a whole number from 1 to .*, not 0"),
        (LocalPredictiveAttention, {"scorer": HardAttention}, "cannot have HardAttention as its scorer"),
        (LocalPredictiveAttention, {"scorer": LocalMonotonicAttention}, "cannot have LocalMonotonicAttention"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(cls, arguments, message):
    with pytest.raises(ValueError, match=message):
        build(cls, arguments)


def content_based(attention: Attention) -> bool:
    return table()[type(attention).__name__]["sentinel"]


def test_rows_and_the_sentinel_sum_to_1(attention):
    if not content_based(attention):
        return
    memory, query = random_memory(attention, [6, 3, 1]), queries(attention, 3, 4)
    sentinel = torch.randn(3, 4, FEATURE_DIM, dtype=torch.float64)
    context, alpha, extras = look(attention, query, memory, sentinel)
    total = alpha.sum(-1) + extras["sentinel"]
    if attention.rows_sum_to_1:
        torch.testing.assert_close(total, torch.ones(3, 4, dtype=torch.float64))
    assert (total <= 1 + 1e-9).all()
    if attention.num_heads == 1:
        mixture = torch.einsum("bkl,bld->bkd", alpha, memory.features) + extras["sentinel"][..., None] * sentinel
        torch.testing.assert_close(context, mixture)
    else:
        assert extras["heads"].shape == (3, 4, attention.num_heads, NUM_LOCATIONS)
        torch.testing.assert_close(extras["heads"].mean(2), alpha)


def test_a_sentinel_is_one_more_location(attention):
    """But for local attention, in whose windows it always is."""
    if not content_based(attention) or isinstance(attention, room.LocalAttention):
        return
    memory, query = random_memory(attention, [6, 3]), queries(attention, 2, 3)
    sentinel = torch.randn(2, 3, FEATURE_DIM, dtype=torch.float64)
    context, alpha, extras = look(attention, query, memory, sentinel)
    for image, sequence in torch.ones(2, 3).nonzero().tolist():
        features = torch.cat((memory.features[image], sentinel[image, sequence][None]))[None]
        mask = torch.cat((memory.mask[image], torch.tensor([True])))[None]
        one_more = attention(query[image, sequence][None, None], attention.prepare(Memory.from_words(features, mask)))
        torch.testing.assert_close(context[image, sequence], one_more.context[0, 0])
        torch.testing.assert_close(alpha[image, sequence], one_more.alpha[0, 0, :-1])
        torch.testing.assert_close(extras["sentinel"][image, sequence], one_more.alpha[0, 0, -1])


def test_gradients_through_a_sentinel_are_right(attention):
    if not content_based(attention):
        return
    memory = random_memory(attention, [6, 3])

    def seen(query, sentinel):
        context, _, extras = look(attention, query, memory, sentinel)
        return context, *extras.values()

    query = queries(attention, 2, 2).requires_grad_()
    sentinel = torch.randn(2, 2, FEATURE_DIM, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(seen, (query, sentinel), fast_mode=True)


def test_a_scorer_needs_two_functions():
    attention = FirstNumber(FEATURE_DIM, QUERY_DIM)
    memory = attention.prepare(memories()["words"])
    alpha = look(attention, queries(attention, 2, 3), memory).alpha
    first = memory.features[..., 0].masked_fill(~memory.mask, -torch.inf)
    torch.testing.assert_close(alpha, first.softmax(-1)[:, None].expand(-1, 3, -1))


@pytest.mark.parametrize("score", [1e6, -1e6])
@pytest.mark.parametrize("normaliser", [Softmax, Sparsemax, Entmax15])
def test_a_sentinel_takes_all_or_nothing(score, normaliser):
    attention = FirstNumber(FEATURE_DIM, QUERY_DIM, normaliser())
    memory, query = random_memory(attention, [6, 3]), queries(attention, 2, 3)
    sentinel = torch.full((2, 3, FEATURE_DIM), score, dtype=torch.float64)
    context, alpha, extras = look(attention, query, memory, sentinel)
    without = look(attention, query, memory)
    assert (extras["sentinel"] == (score > 0)).all()
    torch.testing.assert_close(alpha, torch.zeros_like(alpha) if score > 0 else without.alpha)
    torch.testing.assert_close(context, sentinel if score > 0 else without.context)
