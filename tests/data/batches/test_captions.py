"""Captions as arrays."""

from __future__ import annotations

from pathlib import Path

from batch_cases import WORDS

from captioner.data.batches import EncodedCaptions
from captioner.tokenizer import WordLevel
from captioner.types import CaptionedImage

TOKENIZER = WordLevel(min_count=1).fit([" ".join(WORDS)])


def test_captions_end_with_the_end_word_unless_they_are_cut():
    items = [CaptionedImage(0, Path("0"), ("a b c", "a b c d", "", "?")), CaptionedImage(1, Path("1"))]
    captions = EncodedCaptions(items, TOKENIZER, max_words=3)
    whole, cut = captions.of_image(0)
    assert whole.tolist() == [*TOKENIZER.encode("a b c"), TOKENIZER.eos_id]
    assert cut.tolist() == TOKENIZER.encode("a b c")
    assert captions.of_image(1) == []
    assert captions.longest().tolist() == [4, 0]
    assert captions.num_cut == 1
