"""Sentences in place of photos: what makes them ready, readers of parallel text, and its batches."""

from __future__ import annotations

import pickle
import re

import pytest
import torch
from text_cases import PAIRS

from captioner.data import TextError, TextTransform
from captioner.tokenizer import BytePairs, Characters, WordLevel


@pytest.fixture(params=[WordLevel(1), BytePairs(60), Characters()], ids=lambda builder: type(builder).__name__)
def transform(request) -> TextTransform:
    return TextTransform(request.param.fit(source for source, _ in PAIRS))


def test_a_sentence_becomes_its_ids(transform):
    ids = transform("Ein rotes Haus!")
    assert ids.dtype == torch.int64
    assert ids.tolist() == transform.tokenizer.encode("ein rotes haus!")
    assert pickle.loads(pickle.dumps(transform))("ein hund").tolist() == transform("ein hund").tolist()


@pytest.mark.parametrize("text", ["Ein rotes Haus!", "eine Rothaut", "ein", "Ka Tz"])
def test_each_id_has_its_word_or_piece(transform, text):
    words = transform.words(text)
    assert len(words) == len(transform(text))
    assert re.sub(r"\W", "", "".join(words)) == re.sub(r"\W", "", text.lower())


def test_words_are_named_as_spelt_though_unknown():
    transform = TextTransform(WordLevel(1).fit(["ein hund"]))
    assert transform.words("Ein Känguru, ein Hund") == ["ein", "känguru", "ein", "hund"]


@pytest.mark.parametrize("text", ["", "   ", "?!"])
def test_a_sentence_without_words_is_an_error(text):
    with pytest.raises(TextError, match=re.escape(f"{text!r}: there are no words to read")):
        TextTransform(WordLevel(1).fit(["ein hund"]))(text)


def test_padding_stands_behind():
    padded = TextTransform(WordLevel(1).fit(["ein hund"])).stack([torch.tensor([5]), torch.tensor([6, 7, 8])])
    assert padded.tolist() == [[5, 0, 0], [6, 7, 8]]
