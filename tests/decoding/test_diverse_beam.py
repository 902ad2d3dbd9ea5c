"""Diverse beam search: beams in groups that keep away from one another's words."""

from __future__ import annotations

import math

import pytest

from captioner.decoding import DiverseBeamSearch, beam_search

EOS = 2


@pytest.mark.parametrize("diversity", [0.0, 3.0])
@pytest.mark.parametrize("length_penalty", [0.0, 0.7])
def test_one_group_is_beam_search(model, make_rules, diversity, length_penalty):
    search = DiverseBeamSearch(5, 1, diversity, length_penalty)
    found = search(model.step, model.init_state(), make_rules(max_length=8), 5)
    assert found == beam_search(model.step, model.init_state(), make_rules(max_length=8), 5, 5, length_penalty)


def test_groups_that_do_not_look_at_one_another_find_the_same(model, make_rules):
    found = DiverseBeamSearch(6, 3, 0.0)(model.step, model.init_state(), make_rules(max_length=8), 2)
    assert found == beam_search(model.step, model.init_state(), make_rules(max_length=8), 2, 2, 0.7)


def plain_groups_of_one(model, image, rules, num_groups, diversity):
    """The search, written out: every group holds one prefix. All that it finishes, as {words: log_prob}."""
    finished = {}
    prefixes = [[] for _ in range(num_groups)]
    for num_words in range(rules.max_length + 1):
        taken = []
        for group, prefix in enumerate(prefixes):
            choices = [
                (model.log_prob(image, [*prefix, word], finished=False) - diversity * taken.count(word), word)
                for word in model.words
            ]
            end = model.log_prob(image, prefix, finished=True)
            if num_words >= rules.min_length and end > max(choices)[0]:
                finished[tuple(prefix)] = end
            taken.append(max(choices)[1])
            prefixes[group] = [*prefix, taken[-1]]
    return finished


@pytest.mark.parametrize("diversity", [0.3, 2.0, 50.0])
@pytest.mark.parametrize("num_groups", [2, 4])
def test_it_is_the_search_written_out(model, make_rules, diversity, num_groups):
    rules = make_rules(max_length=6)
    search = DiverseBeamSearch(num_groups, num_groups, diversity, length_penalty=0.0)
    found = search(model.step, model.init_state(), rules, num_groups)
    for image, hypotheses in enumerate(found):
        expected = plain_groups_of_one(model, image, rules, num_groups, diversity)
        if not expected:
            assert not any(hypothesis.finished for hypothesis in hypotheses)
            continue
        best = sorted(expected, key=lambda words: -expected[words])[:num_groups]
        assert [tuple(hypothesis.tokens) for hypothesis in hypotheses] == best
        scores = [hypothesis.score for hypothesis in hypotheses]
        assert scores == pytest.approx([expected[words] for words in best], abs=1e-4)


def test_strong_diversity_keeps_groups_apart_at_every_step(model, make_rules):
    seen = []

    def step(tokens, state):
        logits, next_state = model.step(tokens, state)
        seen.append(tokens.tolist())
        return logits, next_state

    DiverseBeamSearch(3, 3, diversity=1e3)(step, model.init_state(), make_rules(max_length=6))
    assert len(seen) > 1
    for words in (words for images in seen[1:] for words in images):
        assert set(words) == set(model.words)  # three groups of one, three words


def test_the_state_follows_its_group(model, make_rules):
    """What a step is given as history is what the tokens before it were."""
    seen = []

    def step(tokens, state):
        logits, next_state = model.step(tokens, state)
        if seen:
            earlier = {(tuple(words), image) for image, row in enumerate(seen[-1]) for words in row}
            for image, row in enumerate(state["history"].tolist()):
                assert {(tuple(words), image) for words in row} <= earlier
        seen.append(next_state["history"].tolist())
        assert (next_state["image"] == next_state["image"][:, :1]).all()
        return logits, next_state

    found = DiverseBeamSearch(6, 3, 1.0)(step, model.init_state(), make_rules(max_length=6), 6)
    for image, hypotheses in enumerate(found):
        for tokens, *_ in hypotheses:
            assert [1, *tokens] in seen[len(tokens)][image]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"beam_size": 5, "num_groups": 2}, "num_groups=2 must divide beam_size=5"),
        ({"beam_size": 4, "num_groups": 0}, "num_groups=0 must divide"),
        ({"diversity": -0.1}, r"diversity=-0\.1"),
        ({"length_penalty": -1.0}, r"length_penalty=-1\.0"),
        ({"beam_size": 0}, "beam_size=0"),
    ],
)
def test_nonsense_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        DiverseBeamSearch(**arguments)


def test_endings_cost_nothing(make_rules, endless_model):
    """All groups may end at the same step: here the only way to end is after the two likeliest first words."""
    for word in (4, 5, 6):
        endless_model.set_logit([word], EOS, 30.0)
    found = DiverseBeamSearch(3, 3, diversity=100.0)(endless_model.step, endless_model.init_state(), make_rules(), 3)
    assert all(sorted(hypothesis.tokens for hypothesis in image) == [[4], [5], [6]] for image in found)
    assert all(math.isfinite(hypothesis.log_prob) for image in found for hypothesis in image)
