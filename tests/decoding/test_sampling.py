"""Sampling: what words are drawn from, how often, and that draws can be had again."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch

from captioner.decoding import NoBadEndings, Sampling, greedy_search, sample
from captioner.decoding.sampling import drawn, word_weights

EOS = 2
HEADS = [(1.0, None, None), (0.5, None, None), (2.0, 3, None), (1.0, None, 0.6), (0.8, 4, 0.7), (1.0, 99, 1.0)]


def plain_weights(log_probs, temperature, top_k, top_p):
    """Word by word: {word: probability of being drawn}."""
    tempered = {word: math.exp(value / temperature) for word, value in enumerate(log_probs) if value > -math.inf}
    ranked = sorted(tempered, key=lambda word: -tempered[word])[:top_k]
    total = sum(tempered[word] for word in ranked)
    head, mass = [], 0.0
    for word in ranked:
        head.append(word)
        mass += tempered[word] / total
        if top_p is not None and mass >= top_p:
            break
    total = sum(tempered[word] for word in head)
    return {word: tempered[word] / total for word in head}


@pytest.mark.parametrize(("temperature", "top_k", "top_p"), HEADS)
def test_words_are_weighted_as_written_out(temperature, top_k, top_p):
    log_probs = (2 * torch.randn(4, 3, 12, generator=torch.Generator().manual_seed(0))).log_softmax(-1)
    log_probs[..., 5] = -torch.inf  # forbidden
    log_probs[0, 0, 2:] = -torch.inf  # few words are left
    weights = word_weights(log_probs, temperature, top_k, top_p)
    for row, expected in zip(weights.flatten(0, 1).tolist(), log_probs.flatten(0, 1).tolist(), strict=True):
        reference = plain_weights(expected, temperature, top_k, top_p)
        found = {word: weight / sum(row) for word, weight in enumerate(row) if weight > 0}
        assert found == pytest.approx(reference, abs=1e-5)


def test_where_no_word_is_possible_nothing_has_weight():
    impossible = torch.full((1, 2, 5), -torch.inf)
    assert not word_weights(impossible, 0.7, top_k=2, top_p=0.5).any()


def test_a_uniform_number_points_at_a_word_of_weight():
    weights = torch.tensor([0.0, 2.0, 0.0, 1.0, 1.0, 0.0]).expand(2, 9, 6)
    uniform = torch.tensor([0.0, 0.2, 0.49, 0.5, 0.7, 0.74, 0.75, 0.9, 1 - 2**-24])
    assert drawn(weights, uniform).tolist() == [[1, 1, 1, 3, 3, 3, 4, 4, 4]] * 2
    assert drawn(torch.zeros(1, 9, 6), uniform).shape == (1, 9)


@pytest.mark.parametrize("model", [0, 1], indirect=True)
@pytest.mark.parametrize(("temperature", "top_k", "top_p"), HEADS[:5])
def test_captions_come_as_often_as_they_are_probable(model, make_rules, temperature, top_k, top_p):
    rules = make_rules(0, 2, (NoBadEndings(((4,),)),))
    num_samples = 4_000
    generator = torch.Generator().manual_seed(1)
    found = sample(
        model.step, model.init_state(), rules, generator, num_samples, temperature, top_k, top_p
    ).hypotheses()
    for image in range(3):
        counts = Counter((tuple(hypothesis.tokens), hypothesis.finished) for hypothesis in found[image])
        expected = Counter()

        def follow(prefix, probability, image=image, expected=expected):
            log_probs = [-math.inf] * (4 + len(model.words))
            for word in model.words:
                if not (len(prefix) == 1 and word == 4):  # the second word is the last
                    log_probs[word] = model.log_prob(image, [*prefix, word], False)
            if prefix[-1:] != [4]:
                log_probs[EOS] = model.log_prob(image, prefix, True)
            for word, weight in plain_weights(log_probs, temperature, top_k, top_p).items():
                if word == EOS or len(prefix) == 2:
                    expected[tuple(prefix), word == EOS] += probability * weight
                else:
                    follow([*prefix, word], probability * weight)

        follow([], 1.0)
        assert sum(expected.values()) == pytest.approx(1.0)
        assert counts.keys() <= expected.keys()
        for caption, probability in expected.items():
            deviation = math.sqrt(probability * (1 - probability) / num_samples)
            assert counts[caption] / num_samples == pytest.approx(probability, abs=5 * deviation + 2 / num_samples)


@pytest.mark.parametrize("search", [Sampling(3, temperature=1e-6), Sampling(3, top_k=1), Sampling(3, top_p=1e-6)])
def test_cold_sampling_and_the_narrowest_head_are_greedy(model, make_rules, search):
    found = search(model.step, model.init_state(), make_rules(max_length=8), num_best=3)
    assert found == greedy_search(model.step, model.init_state(), make_rules(max_length=8)).hypotheses()


def test_a_seed_gives_the_same_captions_again_and_another_one_others(model, make_rules):
    def captions(seed):
        return Sampling(num_samples=8, seed=seed)(model.step, model.init_state(), make_rules(max_length=8), 8)

    assert captions(0) == captions(0)
    assert captions(0) != captions(1)


def test_a_generator_goes_on_where_it_stood(model, make_rules):
    generator = torch.Generator().manual_seed(0)
    first, second = (
        sample(model.step, model.init_state(), make_rules(max_length=8), generator, 8).hypotheses() for _ in range(2)
    )
    assert first != second


def test_samples_come_in_the_order_of_their_drawing(model, make_rules):
    """What self-critical training wants: K of them, even if some are alike."""
    found = sample(
        model.step, model.init_state(), make_rules(max_length=2), torch.Generator().manual_seed(0), 50
    ).hypotheses()
    assert [len(image) for image in found] == [50] * 3
    assert all(len({tuple(hypothesis.tokens) for hypothesis in image}) < 50 for image in found)
    assert all(image != sorted(image, key=lambda hypothesis: -hypothesis.score) for image in found)


def test_the_state_is_not_copied_for_the_samples(model, make_rules):
    first = []

    def step(tokens, state):
        first.append({name: (tensor.shape[:2], tensor.stride(1)) for name, tensor in state.items()})
        return model.step(tokens, state)

    Sampling(num_samples=7)(step, model.init_state(), make_rules())
    assert all(found == ((3, 7), 0) for found in first[0].values())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_samples": 0}, "num_samples=0"),
        ({"temperature": 0.0}, r"temperature=0\.0 must be above 0.*GreedySearch"),
        ({"temperature": math.inf}, "temperature=inf"),
        ({"top_k": 0}, "top_k=0"),
        ({"top_p": 0.0}, r"top_p=0\.0"),
        ({"top_p": 1.5}, r"top_p=1\.5"),
    ],
)
def test_nonsense_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Sampling(**arguments)


@pytest.mark.parametrize("temperature", [1e-300, 1e-40, 1e-20])
def test_the_lowest_temperatures_take_the_likeliest_word(temperature):
    log_probs = torch.tensor([[[0.2, 0.5, 0.3]]]).log()
    assert word_weights(log_probs, temperature, None, None).tolist() == [[[0, 1, 0]]]
    assert word_weights(log_probs, temperature, 2, 0.9).tolist() == [[[0, 1, 0]]]
