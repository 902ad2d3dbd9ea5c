"""A model on a split: each image captioned once, scored, and the references' perplexity."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from captioner.checkpoint import describe, rebuild
from captioner.data.features.build_cache import build_cache
from captioner.decoding import GreedySearch
from captioner.evaluation import evaluate
from captioner.metrics import BuiltinTokenizer, quick_score
from captioner.metrics.java import JavaError
from captioner.predictors import Captioner, Wording
from captioner.types import CaptionedImage


@pytest.fixture(scope="module")
def model(bundle):
    return Captioner(bundle, "cpu")


@pytest.fixture(scope="module")
def items(draw, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    items = []
    for seed in range(7):
        draw(seed).save(folder / f"{seed}.png")
        captions = ("a red dog runs near a house", "two boys sit", "a zebra")[: 1 + seed % 3]
        items.append(CaptionedImage(seed, folder / f"{seed}.png", captions))
    return items


@pytest.fixture(autouse=True)
def _no_java(monkeypatch):
    """METEOR and the official tokenizer are tested where they are made."""
    for module in ("java", "scores"):
        monkeypatch.setattr(f"captioner.metrics.{module}.find_java", lambda: None)


def test_each_image_once_as_the_captioner_says_it(model, items):
    result = evaluate(model, items, num_workers=0, batch_size=3)
    said = model.caption([item.path for item in items])
    assert result.captions == {item.image_id: caption.text for item, caption in zip(items, said, strict=True)}
    scores = quick_score({item.image_id: item.captions for item in items}, result.captions)
    assert result.metrics["CIDEr"] == scores.cider
    assert result.metrics["num_scored"] == 7
    assert result.metrics["statistics"]["num_captions"] == 7
    assert result.metrics["statistics"]["seen_in_training"] is None
    assert result.metrics["exact"] == 0
    assert 0 < result.metrics["attention_entropy"] < math.log(16)  # 4 x 4 cells


def test_exact_is_as_the_vocabulary_spells(model, items):
    [caption] = model.caption([items[0].path])
    right = [replace(items[0], captions=("never this", f"{caption.text.upper()}!"))]
    assert evaluate(model, right, num_workers=0).metrics["exact"] == 100


def test_settings_reach_the_search(model, items):
    result = evaluate(model, items[:3], search=GreedySearch(), wording=Wording(max_length=3), num_workers=0)
    said = model.caption([item.path for item in items[:3]], GreedySearch(), Wording(max_length=3))
    assert list(result.captions.values()) == [caption.text for caption in said]


def test_perplexity_is_per_word_of_all_references(model, items):
    metrics = evaluate(model, items, num_workers=0, batch_size=4).metrics
    looks = [model.look(item.path, caption) for item in items for caption in item.captions]
    words = sum(len(look.words) + 1 for look in looks)  # the end word is one
    expected = math.exp(-sum(look.log_prob for look in looks) / words)
    assert metrics["perplexity"] == pytest.approx(expected, rel=1e-4)


def test_share_of_captions_seen_in_training(model, items):
    said = [caption.text for caption in model.caption([item.path for item in items])]
    metrics = evaluate(model, items, [*said[:1], "never said"], num_workers=0).metrics
    assert metrics["statistics"]["seen_in_training"] == pytest.approx(100 * said.count(said[0]) / 7)


def test_workers_change_nothing(model, items):
    assert evaluate(model, items, num_workers=2) == evaluate(model, items, num_workers=0)


def test_from_a_cache(bundle, items, tmp_path, monkeypatch):
    live = evaluate(Captioner(bundle, "cpu"), items, num_workers=0)
    encoder = bundle.model.encoder
    assert build_cache(tmp_path / "cache", items, encoder, bundle.transform, num_workers=0) == []
    monkeypatch.setattr(type(encoder), "forward", lambda *args: pytest.fail("the encoder ran"))
    cached = evaluate(Captioner(bundle, "cpu", tmp_path / "cache"), items, num_workers=0)
    assert cached.captions == live.captions
    assert cached.metrics["perplexity"] == pytest.approx(live.metrics["perplexity"], rel=1e-2)


def test_a_model_that_expects_the_references_better_has_less_perplexity(bundle, items):
    copy = rebuild(describe(bundle), bundle.model.state_dict())
    with torch.no_grad():
        copy.model.decoder.output.bias[copy.tokenizer.encode("dog")[0]] += 1
        copy.model.decoder.output.weight.zero_()
    flat = evaluate(Captioner(copy, "cpu"), items, num_workers=0).metrics["perplexity"]
    assert flat < evaluate(Captioner(bundle, "cpu"), items, num_workers=0).metrics["perplexity"]


def test_images_without_references_are_named_before_any_work(model, items, monkeypatch):
    monkeypatch.setattr(model.model, "encode", lambda source: pytest.fail("it began"))
    for captions in ((), ("...",)):
        with pytest.raises(ValueError, match=r"1 of 7 images have no reference captions.*\[3\]"):
            evaluate(model, [replace(item, captions=captions) if item.image_id == 3 else item for item in items])
    with pytest.raises(ValueError, match="no images to evaluate"):
        evaluate(model, [])


def test_an_unreadable_image_is_named(model, items, tmp_path):
    (tmp_path / "empty.png").touch()
    with pytest.raises(ValueError, match=r"empty\.png: the file is empty"):
        evaluate(model, [*items, CaptionedImage(9, tmp_path / "empty.png", ("a dog",))], num_workers=0)


def test_captions_are_kept_before_they_are_scored(model, items, monkeypatch):
    kept = []
    monkeypatch.setattr("captioner.evaluation.captions.score", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        evaluate(model, items, num_workers=0, keep=kept.append)
    assert list(kept[0]) == [item.key for item in items]


def test_the_tokenizer_and_meteor_are_those_of_the_score(model, items, monkeypatch):
    assert evaluate(model, items[:3], num_workers=0, tokenizer=Shouting()).metrics["tokenizer"] == "shouting"
    monkeypatch.setattr(model.model, "encode", lambda source: pytest.fail("it began"))
    with pytest.raises(JavaError, match="Java was not found"):
        evaluate(model, items, require_meteor=True)


class Shouting(BuiltinTokenizer):
    name = "shouting"


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_likelihood_that_is_not_finite_names_the_images(bundle, items, value):
    copy = rebuild(describe(bundle), bundle.model.state_dict())
    with torch.no_grad():
        copy.model.decoder.output.bias[copy.tokenizer.encode("dog")[0]] = value
    with pytest.raises(ValueError, match=r"log-likelihood of these images' references is nan: \[\d, \d, \d\];"):
        evaluate(Captioner(copy, "cpu"), items, num_workers=0, batch_size=3)


def test_a_perplexity_past_all_numbers_is_left_out(bundle, items):
    copy = rebuild(describe(bundle), bundle.model.state_dict())
    with torch.no_grad():
        copy.model.decoder.output.bias[copy.tokenizer.encode("dog")[0]] = -1e6
    one = [replace(items[0], captions=("dog dog",))]
    with pytest.warns(UserWarning, match=r"perplexity is left out: it is exp\(\d+\.\d\), more than a number can hold"):
        assert evaluate(Captioner(copy, "cpu"), one, num_workers=0).metrics["perplexity"] is None
