"""One word after another, however it is chosen."""

from __future__ import annotations

import pytest
import torch

from captioner.decoding import BeamSearch, DiverseBeamSearch, GreedySearch, Sampling, greedy_search, roll_out


def test_sequences_of_one_image_are_followed_side_by_side(model, make_rules):
    def a_word_each(log_probs):
        """The first sequence takes the likeliest word, the second the least likely possible one."""
        likeliest = log_probs[:, :1].argmax(-1)
        unlikeliest = log_probs[:, 1:].masked_fill(log_probs[:, 1:].isneginf(), 0).argmin(-1)
        return likeliest.new_tensor([[a, b] for [a], [b] in zip(likeliest, unlikeliest, strict=True)])

    state = {name: tensor.repeat_interleave(2, dim=1) for name, tensor in model.init_state().items()}
    found = roll_out(model.step, state, make_rules(max_length=6), a_word_each).hypotheses()
    greedy = greedy_search(model.step, model.init_state(), make_rules(max_length=6)).hypotheses()
    assert [[first] for first, _ in found] == greedy
    assert all(second.tokens != first.tokens for first, second in found)


@pytest.mark.parametrize(
    "search", [GreedySearch(), Sampling(), Sampling(top_p=0.5), BeamSearch(3), DiverseBeamSearch(4, 2)]
)
def test_what_is_no_number_does_not_pass_for_an_empty_caption(model, make_rules, search):
    def step(words, state):
        logits, state = model.step(words, state)
        return torch.where(words[..., None] == make_rules().bos_id, logits, torch.nan), state  # from the second word on

    found = search.find(step, model.init_state(), make_rules(max_length=6))
    assert not found.log_probs[:, 0].isfinite().any()
