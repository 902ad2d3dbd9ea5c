"""Greedy search, and the loop it shares with whatever else goes word by word."""

from __future__ import annotations

from captioner.decoding import greedy_search

EOS = 2


def test_every_word_is_the_likeliest_allowed_one(model, make_rules):
    rules = make_rules(min_length=2, max_length=6)
    for image, (found,) in enumerate(greedy_search(model.step, model.init_state(), rules).hypotheses()):
        expected: list[int] = []
        while True:
            may_end = len(expected) >= 2
            choices = [(model.log_prob(image, expected, finished=True), True, EOS)] if may_end else []
            for word in model.words:
                choices.append((model.log_prob(image, [*expected, word], finished=False), False, word))
            _, ends, word = max(choices)
            if ends or len(expected) == 6:
                break
            expected.append(word)
        assert found.tokens == expected
        assert found.finished == ends
        assert found.score == found.log_prob
