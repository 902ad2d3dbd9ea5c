"""Rules: what no caption can obey is refused, and log-probabilities stay the model's."""

from __future__ import annotations

import pytest

from captioner.decoding import Rules


def test_low_precision_logits_are_summed_in_float32(search, model, make_rules):
    model.table = model.table.bfloat16()
    found = search(model.step, model.init_state(), make_rules(max_length=6))
    for image, hypotheses in enumerate(found):
        for tokens, log_prob, _, finished in hypotheses:
            assert log_prob == pytest.approx(model.log_prob(image, tokens, finished), abs=1e-4)


@pytest.mark.parametrize(("min_length", "max_length"), [(-1, 5), (6, 5), (0, 0)])
def test_impossible_lengths_are_refused(min_length, max_length):
    with pytest.raises(ValueError, match=f"min_length={min_length} and max_length={max_length}"):
        Rules(bos_id=1, eos_id=2, never=(0, 1, 3), min_length=min_length, max_length=max_length)


def test_the_end_word_cannot_be_forbidden():
    with pytest.raises(ValueError, match="eos_id=2"):
        Rules(bos_id=1, eos_id=2, never=(0, 2))
