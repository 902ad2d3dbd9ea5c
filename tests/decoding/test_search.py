"""What holds for every search (the fixture `search` goes over them all), and for the rules."""

from __future__ import annotations

import jsonargparse
import pytest
import torch

from captioner.decoding import BeamSearch, DiverseBeamSearch, GreedySearch, Sampling, Search
from captioner.decoding.common import Lookout

EOS, UNK = 2, 3


LENGTHS = [(0, 1), (1, 1), (0, 6), (3, 6), (4, 4)]


def test_captions_obey_the_rules_and_are_distinct_and_the_best_comes_first(search, model, make_rules):
    """And their log-probability is what teacher forcing gives."""
    for min_length, max_length in LENGTHS:
        found = search(model.step, model.init_state(), make_rules(min_length, max_length))
        assert len(found) == 3
        for image, hypotheses in enumerate(found):
            assert hypotheses
            for tokens, log_prob, _, finished in hypotheses:
                assert set(tokens) <= set(model.words)
                assert (min_length if finished else max_length) <= len(tokens) <= max_length
                assert log_prob == pytest.approx(model.log_prob(image, tokens, finished), abs=1e-4)
            assert len({tuple(hypothesis.tokens) for hypothesis in hypotheses}) == len(hypotheses)
            ranks = [(hypothesis.finished, hypothesis.score) for hypothesis in hypotheses]
            assert ranks == sorted(ranks, reverse=True)


def test_batched_equals_one_by_one(search, model, make_rules):
    rules = make_rules(max_length=6)
    model.table[1, :, EOS] += 6  # the second image is done early, while the others go on
    batched = search(model.step, model.init_state(), rules)
    alone = [search(model.step, model.init_state([image]), rules)[0] for image in range(3)]
    assert batched == alone


def test_no_images_no_captions(search, model, make_rules):
    assert search(model.step, model.init_state([]), make_rules()) == []


def test_a_model_that_never_ends_still_gives_captions(search, endless_model, make_rules):
    found = search(endless_model.step, endless_model.init_state(), make_rules(max_length=5))
    for image, hypotheses in enumerate(found):
        assert hypotheses
        for tokens, log_prob, _, finished in hypotheses:
            assert not finished
            assert len(tokens) == 5
            assert log_prob == pytest.approx(endless_model.log_prob(image, tokens, False), abs=1e-4)


def test_a_model_without_any_possible_word_gives_an_empty_caption(search, model, make_rules):
    model.table[...] = -torch.inf
    model.table[..., UNK] = 0.0
    found = search(model.step, model.init_state(), make_rules())
    assert all(image[0] == ([], 0.0, 0.0, False) for image in found)


def test_a_caption_of_max_length_may_end(search, make_rules, endless_model):
    endless_model.table[..., 4:] = -torch.inf
    endless_model.table[..., 4] = 0.0  # one word can be said
    endless_model.set_logit([4, 4], EOS, 5.0)
    found = search(endless_model.step, endless_model.init_state(), make_rules(min_length=2, max_length=2))
    assert all(image[0].finished and image[0].tokens == [4, 4] for image in found)


def test_nothing_is_computed_for_gradients(search, model, make_rules):
    model.table.requires_grad_()

    def step(tokens, state):
        logits, state = model.step(tokens, state)
        assert not logits.requires_grad
        return logits, state

    search(step, model.init_state(), make_rules())


def test_a_search_stops_when_all_is_settled(search, model, make_rules):
    model.table[..., EOS] = 30.0
    search(model.step, model.init_state(), make_rules(min_length=1, max_length=30))
    assert model.num_steps < 30


def test_stopping_early_changes_no_result(search, model, make_rules, monkeypatch):
    rules = make_rules(max_length=8)
    found = search(model.step, model.init_state(), rules)
    monkeypatch.setattr(Lookout, "sees_the_end", lambda lookout, settled: False)
    assert search(model.step, model.init_state(), rules) == found


@pytest.mark.parametrize(
    ("found", "num_captions"),
    [
        (GreedySearch(), 1),
        (BeamSearch(beam_size=4), 4),
        (DiverseBeamSearch(beam_size=6, num_groups=2), 6),
        (Sampling(num_samples=3), 3),
    ],
)
def test_no_more_captions_than_a_search_can_give(model, make_rules, found, num_captions):
    assert found.max_captions == num_captions
    best, most = (found(model.step, model.init_state(), make_rules(), num_best) for num_best in (1, num_captions))
    assert best == [image[:1] for image in most]
    for num_best in (0, num_captions + 1):
        message = f"num_best={num_best} must lie between 1 and {num_captions}.*{type(found).__name__}"
        with pytest.raises(ValueError, match=message):
            found(model.step, model.init_state(), make_rules(), num_best)


def test_a_config_names_a_search_by_its_class():
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Search, "search")
    for found in (GreedySearch(), BeamSearch(3, 0.5), DiverseBeamSearch(4, 2), Sampling(2, top_p=0.9, seed=3)):
        config = {"class_path": f"captioner.decoding.{type(found).__name__}", "init_args": vars(found)}
        assert parser.instantiate_classes(parser.parse_object({"search": config})).search == found
