"""Caption statistics, counted by hand."""

from __future__ import annotations

import pytest

from captioner.metrics import caption_statistics, exact_match

CAPTIONS = {1: "A dog runs.", 2: "a dog runs", 3: "A man's hat!", 4: ""}


def test_by_hand():
    statistics = caption_statistics(CAPTIONS, training_captions=["A DOG RUNS", "a hat"])
    assert statistics["num_captions"] == 4
    assert statistics["mean_length"] == (3 + 3 + 4 + 0) / 4  # 's is a word
    assert (statistics["min_length"], statistics["max_length"]) == (0, 4)
    assert statistics["vocabulary_used"] == 6  # a dog runs man 's hat
    assert statistics["distinct_captions"] == 3
    assert statistics["seen_in_training"] == 50


def test_a_list_is_as_good():
    assert caption_statistics(list(CAPTIONS.values())) == caption_statistics(CAPTIONS)


def test_without_training_captions():
    assert caption_statistics(CAPTIONS)["seen_in_training"] is None
    assert caption_statistics(CAPTIONS, training_captions=[])["seen_in_training"] == 0


def test_nothing_to_describe():
    with pytest.raises(ValueError, match="no captions"):
        caption_statistics({})


def test_exact_is_character_for_character():
    references = {1: ["a red circle", "a circle"], 2: iter(["a dog"]), 3: ["a red"]}
    assert exact_match(references, {1: "a circle", 2: "a dog", 3: "a red circle"}) == pytest.approx(200 / 3)
    with pytest.raises(ValueError, match="no captions"):
        exact_match({}, {})
