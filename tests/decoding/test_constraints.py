"""Constraints: what they strike out, alone and together, in every search."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest
import torch

from captioner.decoding import (
    BeamSearch,
    ForbiddenWords,
    NoBadEndings,
    NoRepeatedNgrams,
    RequiredWords,
    Rules,
    beam_search,
    roll_out,
)
from captioner.decoding.common import Lookout

BOS, EOS = 1, 2
ALL = 324  # three words: 3 ** 4 prefixes of four words, each going on in four ways
EACH = [
    NoRepeatedNgrams(1),
    NoRepeatedNgrams(2),
    ForbiddenWords(((4,), (5, 6), (6, 6, 6))),
    NoBadEndings(((4,), (5, 5), (6, 5))),
    RequiredWords(((4,),)),
    RequiredWords(((4, 5), (5, 6))),  # 4 5 6 holds both
    RequiredWords(((5, 6, 5), (6, 5, 6))),
    RequiredWords(((4, 4), (4,), (6,))),
]


def contains(words, phrase):
    return any(tuple(words[start : start + len(phrase)]) == phrase for start in range(len(words)))


def obeys(words, constraint):
    """The constraints, in plain Python."""
    if isinstance(constraint, NoRepeatedNgrams):
        runs = [tuple(words[start : start + constraint.size]) for start in range(len(words) - constraint.size + 1)]
        return len(set(runs)) == len(runs)
    if isinstance(constraint, ForbiddenWords):
        return not any(contains(words, phrase) for phrase in constraint.phrases)
    if isinstance(constraint, NoBadEndings):
        return not any(tuple(words[-len(ending) :]) == ending for ending in constraint.endings)
    return all(contains(words, phrase) for phrase in constraint.phrases)


def captions_that_obey(model, constraints, min_length=1, max_length=4):
    every = model.all_captions(Rules(BOS, EOS, (0, 1, 3), min_length, max_length))
    return [words for words in every if all(obeys(words, constraint) for constraint in constraints)]


def random_constraints(seed):
    """One to four constraints of different kinds, over the words 4, 5 and 6."""
    draw = random.Random(seed)

    def phrases(most):
        return tuple(tuple(draw.choices([4, 5, 6], k=draw.randint(1, 3))) for _ in range(draw.randint(1, most)))

    kinds = [
        NoRepeatedNgrams(draw.randint(1, 3)),
        ForbiddenWords(phrases(2)),
        NoBadEndings(phrases(2)),
        RequiredWords(phrases(3)),
    ]
    return tuple(draw.sample(kinds, draw.randint(1, 4)))


def check_exhaustive(model, constraints, min_length=1):
    """What a beam as wide as the space finds is what enumeration finds; refused rules leave no caption."""
    expected = captions_that_obey(model, constraints, min_length)
    try:
        rules = Rules(BOS, EOS, (0, 1, 3), min_length, 4, constraints)
    except ValueError:
        assert not expected
        return
    found = BeamSearch(ALL, length_penalty=0.5)(model.step, model.init_state(), rules, ALL)
    for image, hypotheses in enumerate(found):
        scores = {
            tuple(words): model.log_prob(image, words, finished=True) / (len(words) + 1) ** 0.5 for words in expected
        }
        finished = [hypothesis for hypothesis in hypotheses if hypothesis.finished]
        ranked = sorted(scores, key=lambda words, scores=scores: -scores[words])
        assert [tuple(hypothesis.tokens) for hypothesis in finished] == ranked
        assert [hypothesis.score for hypothesis in finished] == pytest.approx([scores[w] for w in ranked], abs=1e-4)


@pytest.mark.parametrize("model", [0, 1], indirect=True)
@pytest.mark.parametrize("constraint", EACH, ids=str)
@pytest.mark.parametrize("min_length", [0, 3])
def test_a_beam_as_wide_as_the_space_is_exhaustive(model, constraint, min_length):
    check_exhaustive(model, (constraint,), min_length)


@pytest.mark.parametrize("model", [0], indirect=True)
@pytest.mark.parametrize("seeds", [range(start, start + 10) for start in range(0, 60, 10)], ids=str)
def test_constraints_compose(model, seeds):
    for seed in seeds:
        check_exhaustive(model, random_constraints(seed))


@pytest.mark.parametrize("model", [0], indirect=True)
def test_every_search_obeys_them_together(search, model, make_rules):
    for seed in range(15):
        constraints = random_constraints(seed)
        try:
            rules = make_rules(max_length=7, constraints=constraints)
        except ValueError:
            continue
        for image, hypotheses in enumerate(search(model.step, model.init_state(), rules)):
            assert hypotheses
            for tokens, log_prob, _, finished in hypotheses:
                for constraint in constraints:
                    if finished or isinstance(constraint, NoRepeatedNgrams | ForbiddenWords):
                        assert obeys(tokens, constraint), seed
                assert log_prob == pytest.approx(model.log_prob(image, tokens, finished), abs=1e-4)


@pytest.mark.parametrize(
    "constraints",
    [
        (RequiredWords(((5,),)),),
        (RequiredWords(((4, 5), (5, 6))), ForbiddenWords(((6, 4), (4, 4))), NoBadEndings(((4,), (5,)))),
        (RequiredWords(((6, 4),)), NoBadEndings(((4,),))),  # a word must come after the phrase
        (RequiredWords(((5,), (4,))), ForbiddenWords(((4, 5), (5, 4)))),  # and here between the two
    ],
)
def test_required_words_are_there_even_in_captions_that_do_not_end(search, endless_model, constraints):
    endless_model.table[..., 4] += 9  # the rest of the words are hardly ever wanted
    for max_length in (3, 4, 9):
        rules = Rules(BOS, EOS, (0, 1, 3), 1, max_length, constraints)
        for image in search(endless_model.step, endless_model.init_state(), rules):
            for hypothesis in image:
                assert len(hypothesis.tokens) == max_length
                assert all(obeys(hypothesis.tokens, constraint) for constraint in constraints)


def test_a_caption_that_is_cut_off_has_no_bad_ending_either(search, endless_model, make_rules):
    ending = NoBadEndings(((4,), (5, 5)))
    rules = make_rules(max_length=5, constraints=(ending,))
    for image in search(endless_model.step, endless_model.init_state(), rules):
        assert all(obeys(hypothesis.tokens, ending) for hypothesis in image)


@pytest.mark.parametrize("model", [0], indirect=True)
def test_batched_equals_one_by_one(search, model, make_rules):
    required = RequiredWords(((5,), (6, 4)))
    rules = make_rules(max_length=7, constraints=(required, NoRepeatedNgrams(2), NoBadEndings(((6,),))))
    batched = search(model.step, model.init_state(), rules)
    assert batched == [search(model.step, model.init_state([image]), rules)[0] for image in range(3)]
    assert search(model.step, model.init_state([]), rules) == []


@pytest.mark.parametrize("model", [0], indirect=True)
def test_stopping_early_changes_no_result(search, model, make_rules, monkeypatch):
    rules = make_rules(max_length=8, constraints=(RequiredWords(((5,), (6, 4))), NoRepeatedNgrams(2)))
    found = search(model.step, model.init_state(), rules)
    monkeypatch.setattr(Lookout, "sees_the_end", lambda lookout, settled: False)
    assert search(model.step, model.init_state(), rules) == found


@dataclass(frozen=True)
class WithoutBanks(RequiredWords):
    """Required words that beam search sees no progress in: they are only forced."""

    @property
    def goal(self):
        return 0


def test_a_beam_places_required_words_where_they_are_likely(endless_model, make_rules):
    """5 is likeliest at the start, but 4 and 6 are likelier there: a narrow beam would put it off."""
    model = endless_model
    model.table[...] = -30.0
    model.set_logit([], 5, -3.0)
    model.set_logit([5], EOS, 0.0)
    for num_words in range(6):
        for first in (4, 6):
            prefix = [first, *[4] * (num_words - 1)][:num_words]
            for word, logit in ((4, 0.0), (6, -2.0), (EOS, -1.0)):
                model.set_logit(prefix, word, logit)
            model.set_logit(prefix, 5, -3.0 if not prefix else -8.0)
            model.set_logit([*prefix, 5], EOS, 0.0)

    def best(constraint):
        found = beam_search(model.step, model.init_state(), make_rules(0, 5, (constraint,)), beam_size=2)
        return found.hypotheses()[0][0]

    assert best(RequiredWords(((5,),))).tokens == [5]
    assert best(WithoutBanks(((5,),))).log_prob < best(RequiredWords(((5,),))).log_prob - 3


def test_a_beam_has_places_in_every_bank(model, make_rules):
    seen = []

    def step(tokens, state):
        logits, next_state = model.step(tokens, state)
        seen.append(next_state["history"][:, :, 1:].tolist())
        return logits, next_state

    beam_search(step, model.init_state(), make_rules(4, 6, (RequiredWords(((5,), (6,))),)), beam_size=6)
    for prefixes in seen[2]:  # of two words: each bank has two or more, so each has two places
        assert sorted((5 in words) + (6 in words) for words in prefixes) == [0, 1, 1, 1, 2, 2]


def test_where_no_word_is_possible_a_search_keeps_what_it_has(search, endless_model, make_rules):
    """Three words that may come once each, in a caption of four."""
    rules = make_rules(4, 4, (NoRepeatedNgrams(1),))
    for image, hypotheses in enumerate(search(endless_model.step, endless_model.init_state(), rules)):
        for tokens, log_prob, _, finished in hypotheses:
            assert sorted(tokens) == [4, 5, 6]
            assert not finished
            assert log_prob == pytest.approx(endless_model.log_prob(image, tokens, False), abs=1e-4)


def test_log_probs_are_not_renormalised(make_rules):
    rules = make_rules(constraints=(ForbiddenWords(((4,),)),))
    logits = torch.randn(2, 3, 7)
    found = rules.log_probs(logits, torch.zeros(2, 3, 1, dtype=torch.long))
    allowed = found > -torch.inf
    assert allowed.sum(-1).eq(3).all()  # the end word and two words
    torch.testing.assert_close(found[allowed], logits.log_softmax(-1)[allowed])


@pytest.mark.parametrize("model", [0], indirect=True)
def test_a_stopped_sequence_harms_no_other(model, make_rules):
    """Sequences that have ended are stepped on with whatever word; ids beyond the phrases' included."""
    rules = make_rules(max_length=5, constraints=(RequiredWords(((5, 6),)), NoRepeatedNgrams(2)))
    state = {name: tensor.expand(-1, 2, *tensor.shape[2:]) for name, tensor in model.init_state().items()}

    def choose(log_probs):
        likeliest = log_probs.argmax(-1)
        return torch.stack([likeliest[:, 0], log_probs[:, 1, 4:].argmax(-1) + 4], dim=1)  # the second ends late

    alone = roll_out(model.step, model.init_state(), rules, lambda log_probs: log_probs.argmax(-1)).hypotheses()
    both = roll_out(model.step, state, rules, choose).hypotheses()
    assert [image[0] for image in both] == [image[0] for image in alone]


def test_phrases_may_be_lists():
    assert RequiredWords([[4, 5], [6]]) == RequiredWords(((4, 5), (6,)))  # as a YAML file has them


@pytest.mark.parametrize("kind", [ForbiddenWords, NoBadEndings, RequiredWords])
@pytest.mark.parametrize(
    ("phrases", "message"),
    [
        ((), "is empty"),
        (((4,), ()), "a phrase of no words"),
        ((4, 5), r"must be tuples of word ids: \(\(7,\),\)"),
        (((4, -1),), r"0 or more: \(4, -1\)"),
        (("dog",), "must hold word ids"),
    ],
)
def test_phrases_that_are_none_are_refused(kind, phrases, message):
    with pytest.raises(ValueError, match=message):
        kind(phrases)


def test_runs_of_no_words_are_refused():
    with pytest.raises(ValueError, match="size=0"):
        NoRepeatedNgrams(0)


def test_too_many_required_phrases_are_refused():
    with pytest.raises(ValueError, match="11 required phrases are too many: 10"):
        RequiredWords(tuple((word,) for word in range(4, 15)))


@pytest.mark.parametrize(
    ("constraints", "message"),
    [
        ((RequiredWords(((4, 5), (6, 5, 6))),), "has 5 words or more, over max_length=4"),
        ((RequiredWords(((5, 4, 5, 4),)), NoBadEndings(((4,),))), "has 5 words or more, over max_length=4"),
        ((RequiredWords(((4, 3),)),), r"\(4, 3\) holds a word of never"),
        ((RequiredWords(((4, 5, 6),)), ForbiddenWords(((5, 6),))), "cannot all be said"),
        ((RequiredWords(((4, 4),)), NoRepeatedNgrams(1)), r"\(4, 4\) repeats words that NoRepeatedNgrams\(size=1\)"),
        ((RequiredWords(((4,),)), RequiredWords(((5,),))), "put all phrases into one"),
        ((RequiredWords(((4, 2),)),), "holds the end word, eos_id=2"),
        ((ForbiddenWords(((4, 2),)),), "holds the end word, eos_id=2"),
        ((NoBadEndings(((4, 2),)),), "holds the end word, eos_id=2"),
    ],
)
def test_rules_that_no_caption_can_obey_are_refused(make_rules, constraints, message):
    with pytest.raises(ValueError, match=message):
        make_rules(max_length=4, constraints=constraints)


@pytest.mark.parametrize("model", [0], indirect=True)
@pytest.mark.parametrize("constraint", [ForbiddenWords(((99,),)), RequiredWords(((99,),)), NoBadEndings(((99,),))])
def test_ids_that_the_vocabulary_does_not_have_are_refused(search, model, make_rules, constraint):
    with pytest.raises(ValueError, match="holds an id that a vocabulary of 7 words does not have"):
        search(model.step, model.init_state(), make_rules(max_length=1, constraints=(constraint,)))
