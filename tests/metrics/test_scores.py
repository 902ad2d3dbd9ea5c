"""Scores: equal to pycocoevalcap's own with Java, whole without it, and right where one can count by hand."""

from __future__ import annotations

import logging
import math
import random
import unicodedata

import pytest
from score_cases import HYPOTHESES, REFERENCES

from captioner.metrics import BuiltinTokenizer, PTBTokenizer, Scores, find_tokenizer, quick_score, score
from captioner.metrics.java import JavaError, find_java


@pytest.fixture
def no_java(monkeypatch):
    monkeypatch.setattr("captioner.metrics.java.shutil.which", lambda command: None)


# of pycocoevalcap 1.2's own PTBTokenizer, Bleu, Meteor, Rouge and Cider, on the captions of score_cases.py
OFFICIAL = {
    "BLEU-1": 66.58605970839137,
    "BLEU-2": 51.06917654141143,
    "BLEU-3": 37.60094285136933,
    "BLEU-4": 26.038873933887434,
    "METEOR": 22.01906206037427,
    "ROUGE-L": 44.85207648145221,
    "CIDEr": 103.24764966639526,
}


@pytest.mark.skipif(find_java() is None, reason="needs Java")
def test_equal_to_pycocoevalcap():
    scores = score(REFERENCES, HYPOTHESES)
    assert scores.metrics() == pytest.approx(OFFICIAL, abs=1e-6)
    assert scores.tokenizer.startswith("PTB")


def test_without_java(no_java, caplog):
    with caplog.at_level(logging.WARNING):
        scores = score(REFERENCES, HYPOTHESES)
    (record,) = caplog.records
    assert "METEOR is left out" in record.getMessage() and "Java" in record.getMessage()
    assert "\n" not in record.getMessage()
    assert scores.meteor is None
    assert scores.tokenizer.startswith("built-in")
    assert scores.rouge_l > 0 and scores.bleu[0] > 0 and scores.cider > 0


def test_identical_captions():
    captions = {i: f"a {animal} sits on the green grass" for i, animal in enumerate(["dog", "cat", "cow"])}
    scores = quick_score({i: [caption] for i, caption in captions.items()}, captions)
    assert scores.bleu == pytest.approx((100, 100, 100, 100), abs=1e-4)
    assert scores.cider == pytest.approx(1000)  # CIDEr-D is 10 at best


def test_bleu_by_hand():
    # 3 of 4 words and 1 of 3 pairs are right, and 4 words stand against 5
    scores = quick_score({1: ["the cat sat on mats"]}, {1: "the cat mats sat"})
    brevity = math.exp(1 - 5 / 4)
    assert scores.bleu[0] == pytest.approx(100 * brevity, abs=1e-4)
    assert scores.bleu[1] == pytest.approx(100 * brevity * math.sqrt(1 / 3), abs=1e-4)


def test_rouge_by_hand(no_java):
    scores = score({1: ["the cat sat on mats"]}, {1: "the cat mats sat"})
    precision, recall = 3 / 4, 3 / 5  # the longest common subsequence: the cat sat (or mats)
    beta = 1.2**2
    expected = (1 + beta) * precision * recall / (recall + beta * precision)
    assert scores.rouge_l == pytest.approx(100 * expected)


def test_order_of_images_does_not_matter(no_java):
    scores = score(REFERENCES, HYPOTHESES).metrics()
    for seed in range(3):
        references, hypotheses = list(REFERENCES.items()), list(HYPOTHESES.items())
        random.Random(seed).shuffle(references)
        random.Random(seed + 1).shuffle(hypotheses)
        assert score(dict(references), dict(hypotheses)).metrics() == pytest.approx(scores)


def test_only_the_images_of_the_hypotheses_count(no_java):
    scores = score(REFERENCES, HYPOTHESES)
    assert (scores.num_scored, scores.num_missing) == (4, 1)
    alone = score({i: REFERENCES[i] for i in HYPOTHESES}, HYPOTHESES)
    assert alone.num_missing == 0
    assert alone.metrics() == scores.metrics()


def test_quick_score_is_the_score_without_java(no_java, capfd):
    quick, full = quick_score(REFERENCES, HYPOTHESES), score(REFERENCES, HYPOTHESES)
    assert (quick.bleu, quick.cider) == (full.bleu, full.cider)
    assert quick.meteor is None and quick.rouge_l is None
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("hypothesis", ["", "   ", "..."])
def test_empty_hypothesis_counts(no_java, hypothesis):
    whole = score(REFERENCES, HYPOTHESES)
    scores = score(REFERENCES, {**HYPOTHESES, 7: hypothesis})
    assert scores.num_scored == 4
    assert 0 < scores.cider < whole.cider
    assert 0 < scores.rouge_l < whole.rouge_l


def test_unknown_image_is_named():
    with pytest.raises(ValueError, match="2 of 6 .* have no references: '12', 13; there are .*like 7, 3"):
        score(REFERENCES, {**HYPOTHESES, "12": "a", 13: "b"})


@pytest.mark.parametrize(
    ("references", "hypotheses", "reason"),
    [
        (REFERENCES, {}, "no captions to score"),
        ({1: [], 2: ["a dog"]}, {1: "a", 2: "b"}, "no reference captions: 1"),
        ({1: ["..."]}, {1: "a"}, "no reference caption holds a word"),
    ],
)
def test_nothing_to_score_against(references, hypotheses, reason):
    with pytest.raises(ValueError, match=reason):
        quick_score(references, hypotheses)


def test_how_marks_are_encoded_does_not_matter(no_java):
    captions = {1: "un café très éloigné à la plage", 2: "एक लड़की घोड़े की सवारी", 3: "رَجُلٌ يَرْكَبُ حِصَانًا آخر"}
    references = {i: [unicodedata.normalize("NFD", caption)] for i, caption in captions.items()}
    scores = quick_score(references, captions)
    assert scores.cider == pytest.approx(quick_score({i: [c] for i, c in captions.items()}, captions).cider)
    assert scores.cider == pytest.approx(1000)
    assert scores.bleu[3] == pytest.approx(100, abs=1e-3)


ALIKE = {"one image": ({1: ["a dog runs"]}, {1: "a dog runs"}), "one text": ({1: ["a"], 2: ["a"]}, {1: "a", 2: "b"})}


@pytest.mark.parametrize("case", ALIKE)
def test_a_cider_that_can_only_be_0_is_noted(no_java, case, caplog):
    with pytest.warns(UserWarning, match="CIDEr is 0, whatever the captions are"):
        assert quick_score(*ALIKE[case]).cider == 0
    assert score(*ALIKE[case]).cider == 0
    assert caplog.records[0].getMessage().startswith("CIDEr is 0, whatever the captions are: it weighs words")


def test_other_ciders_are_not_noted(no_java, caplog, recwarn):
    score(REFERENCES, HYPOTHESES)
    quick_score(REFERENCES, HYPOTHESES)
    score({1: ["a dog"], 2: ["a cat"]}, {1: "x", 2: "y"})
    assert "CIDEr" not in caplog.text and not recwarn


def test_references_without_a_word_are_named(no_java):
    references = REFERENCES | {9: ["...", "!"], 3: ["'"]}
    with pytest.raises(ValueError, match="^no reference caption holds a word of 2 of 4 images: 3, 9; give these"):
        score(references, HYPOTHESES)
    assert quick_score(references, HYPOTHESES).num_scored == 4  # in training they do no harm


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_score_that_is_not_finite_is_an_error(value):
    with pytest.raises(ValueError, match=f"CIDEr is {value}, which is no score"):
        Scores((1.0, 1.0, 1.0, 1.0), value, None, None, 1, 0, "")
    with pytest.raises(ValueError, match=f"BLEU-3 is {value}, which is no score"):
        Scores((1.0, 1.0, value, 1.0), 1.0, None, None, 1, 0, "")


def test_tokenizers_by_name(no_java, caplog):
    assert isinstance(find_tokenizer(), BuiltinTokenizer)
    assert isinstance(find_tokenizer("builtin"), BuiltinTokenizer)
    with pytest.raises(JavaError, match="Java was not found"):
        find_tokenizer("ptb")
    with pytest.raises(ValueError, match="no tokenizer 'spacy'; there are: ptb, builtin"):
        find_tokenizer("spacy")
    with pytest.raises(JavaError, match="Java was not found"):
        score({}, {}, require_meteor=True)  # before any work
    assert not caplog.records


@pytest.mark.skipif(find_java() is None, reason="needs Java")
def test_what_is_wanted_of_java_is_there():
    assert isinstance(find_tokenizer(), PTBTokenizer)
    assert isinstance(find_tokenizer("ptb"), PTBTokenizer)
