"""Beam search: what it finds, how it ranks it, and that its state follows its beams."""

from __future__ import annotations

import math

import pytest

from captioner.decoding import DiverseBeamSearch, beam_search, greedy_search

ALPHAS = [0.0, 0.5, 1.0, 2.0]
EOS = 2
ALL = 324  # three words: 3 ** 4 prefixes of four words, each going on in four ways


def ranked(model, image, rules, length_penalty):
    """Every caption there is, as (score, words), best first."""
    captions = model.all_captions(rules)
    log_probs = [model.log_prob(image, words, finished=True) for words in captions]
    scores = [
        log_prob / (len(words) + 1) ** length_penalty for log_prob, words in zip(log_probs, captions, strict=True)
    ]
    return sorted(zip(scores, captions, strict=True), reverse=True)


@pytest.mark.parametrize("length_penalty", ALPHAS)
@pytest.mark.parametrize(("min_length", "max_length"), [(0, 4), (1, 1), (2, 3), (3, 3)])
def test_a_beam_as_wide_as_the_space_is_exhaustive(model, make_rules, length_penalty, min_length, max_length):
    rules = make_rules(min_length, max_length)
    every = [ranked(model, image, rules, length_penalty) for image in range(3)]
    for num_best in (1, 4, ALL):
        found = beam_search(model.step, model.init_state(), rules, ALL, num_best, length_penalty).hypotheses()
        for hypotheses, ranking in zip(found, every, strict=True):
            expected = ranking[:num_best]
            assert [hypothesis.tokens for hypothesis in hypotheses] == [words for _, words in expected]
            scores = [hypothesis.score for hypothesis in hypotheses]
            assert scores == pytest.approx([score for score, _ in expected], abs=1e-4)


def test_an_endless_model_gives_the_best_unfinished_captions(endless_model, make_rules):
    rules = make_rules(3, 3)
    found = beam_search(endless_model.step, endless_model.init_state(), rules, ALL, 5, length_penalty=1.0).hypotheses()
    for image, hypotheses in enumerate(found):
        captions = endless_model.all_captions(rules)
        expected = sorted(captions, key=lambda words: -endless_model.log_prob(image, words, False))
        assert [hypothesis.tokens for hypothesis in hypotheses] == expected[:5]
        assert all(hypothesis.score == pytest.approx(hypothesis.log_prob / 3) for hypothesis in hypotheses)


def test_one_finished_caption_goes_before_all_unfinished_ones(endless_model, make_rules):
    endless_model.set_logit([4], EOS, 8.0)  # nothing else can end
    found = beam_search(endless_model.step, endless_model.init_state(), make_rules(), ALL, num_best=5).hypotheses()
    assert [[(h.tokens, h.finished) for h in image] for image in found] == [[([4], True)]] * 3


@pytest.mark.parametrize("length_penalty", ALPHAS)
def test_n_best_are_distinct_sorted_and_no_better_than_the_best_there_is(model, make_rules, length_penalty):
    rules = make_rules()
    best = [ranked(model, image, rules, length_penalty)[0][0] for image in range(3)]
    for beam_size in (1, 2, 3, 7):
        found = beam_search(model.step, model.init_state(), rules, beam_size, beam_size, length_penalty).hypotheses()
        for image, hypotheses in enumerate(found):
            scores = [hypothesis.score for hypothesis in hypotheses]
            assert scores == sorted(scores, reverse=True)
            assert len({tuple(hypothesis.tokens) for hypothesis in hypotheses}) == len(hypotheses) <= beam_size
            if hypotheses[0].finished:
                assert scores[0] <= best[image] + 1e-4
                for tokens, log_prob, score, _ in hypotheses:
                    assert score == pytest.approx(log_prob / (len(tokens) + 1) ** length_penalty)


@pytest.mark.parametrize("length_penalty", ALPHAS)
def test_stopping_early_changes_nothing(model, make_rules, length_penalty):
    """Wanting more captions makes the search go on for longer; the first ones must stay the same."""
    rules = make_rules(max_length=8)
    more = beam_search(model.step, model.init_state(), rules, 6, 6, length_penalty).hypotheses()
    for num_best in range(1, 6):
        fewer = beam_search(model.step, model.init_state(), rules, 6, num_best, length_penalty).hypotheses()
        assert fewer == [image[:num_best] for image in more]


def test_a_beam_of_one_is_greedy_search(model, make_rules):
    for rules in (make_rules(0, 1), make_rules(1, 6), make_rules(4, 30)):
        greedy = greedy_search(model.step, model.init_state(), rules).hypotheses()
        assert beam_search(model.step, model.init_state(), rules, beam_size=1).hypotheses() == greedy


def test_endings_do_not_narrow_the_beam(model, make_rules):
    model.table[..., EOS] = 20.0  # from every prefix the likeliest way on is the end
    live = []

    def step(tokens, state):
        logits, next_state = model.step(tokens, state)
        live.append(next_state["history"].tolist())
        return logits, next_state

    found = beam_search(step, model.init_state(), make_rules(1, 4), 3, num_best=3, length_penalty=9.0).hypotheses()
    assert all(hypothesis.finished for image in found for hypothesis in image)
    assert len(live) == 5
    for prefixes in (prefixes for images in live[1:] for prefixes in images):
        assert len({tuple(prefix) for prefix in prefixes}) == 3
        assert all(EOS not in prefix for prefix in prefixes)


@pytest.mark.parametrize("beam_size", [2, 5])
def test_the_state_follows_its_beam(model, make_rules, beam_size):
    """A caption's words are those of a state that the step after them was given."""
    seen = []

    def step(tokens, state):
        logits, next_state = model.step(tokens, state)
        seen.append((next_state["image"], next_state["history"]))  # (B, K), (B, K, 1 + t)
        return logits, next_state

    found = beam_search(step, model.init_state(), make_rules(max_length=6), beam_size, beam_size).hypotheses()
    for image, hypotheses in enumerate(found):
        for tokens, *_ in hypotheses:
            images, histories = seen[len(tokens)]
            assert (images[image] == image).all()
            assert [1, *tokens] in histories[image].tolist()


def test_the_memory_is_never_repeated(model, make_rules):
    """Only (B, K, ...) with the K there are: one sequence at first, `beam_size` when there are as many."""
    widths = []

    def step(tokens, state):
        widths.append(tokens.shape)
        return model.step(tokens, state)

    beam_search(step, model.init_state(), make_rules(min_length=4), beam_size=5)
    assert widths[0] == (3, 1)
    assert set(widths[1:]) == {(3, 5)}


@pytest.mark.parametrize("num_best", [0, 4])
def test_more_captions_than_beams_are_refused(model, make_rules, num_best):
    with pytest.raises(ValueError, match=f"num_best={num_best} must lie between 1 and beam_size=3"):
        beam_search(model.step, model.init_state(), make_rules(), beam_size=3, num_best=num_best)


def test_a_negative_length_penalty_is_refused(model, make_rules):
    with pytest.raises(ValueError, match=r"length_penalty=-0\.5"):
        beam_search(model.step, model.init_state(), make_rules(), length_penalty=-0.5)


@pytest.mark.parametrize("diversity", [0.0, 3.0])
@pytest.mark.parametrize("length_penalty", [0.0, 0.7])
def test_one_group_is_beam_search(model, make_rules, diversity, length_penalty):
    search = DiverseBeamSearch(5, 1, diversity, length_penalty)
    found = search(model.step, model.init_state(), make_rules(max_length=8), 5)
    plain = beam_search(model.step, model.init_state(), make_rules(max_length=8), 5, 5, length_penalty)
    assert found == plain.hypotheses()


def test_groups_that_do_not_look_at_one_another_find_the_same(model, make_rules):
    found = DiverseBeamSearch(6, 3, 0.0)(model.step, model.init_state(), make_rules(max_length=8), 2)
    assert found == beam_search(model.step, model.init_state(), make_rules(max_length=8), 2, 2, 0.7).hypotheses()


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
