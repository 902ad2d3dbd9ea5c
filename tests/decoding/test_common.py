"""What searches share: the sizes of their state, and what tells them that all is settled."""

from __future__ import annotations

import pytest
import torch

from captioner.decoding.common import STEPS_BEHIND, Lookout


def test_the_end_is_seen_when_all_is_settled():
    lookout = Lookout()
    assert [lookout.sees_the_end(torch.tensor(flags)) for flags in ([False, True], [True, True])] == [False, True]


def test_an_answer_that_takes_its_time_is_read_some_steps_later(monkeypatch):
    monkeypatch.setitem(STEPS_BEHIND, "cpu", 2)
    lookout = Lookout()
    flags = [False, True, True, True, True]
    assert [lookout.sees_the_end(torch.tensor(flag)) for flag in flags] == [False, False, False, True, True]


def test_on_a_gpu_no_step_waits_for_its_own_answer(monkeypatch):
    monkeypatch.setitem(STEPS_BEHIND, "meta", 2)
    lookout = Lookout()
    settled = torch.ones(3, dtype=torch.bool, device="meta")  # raises when it is read
    assert not any(lookout.sees_the_end(settled) for _ in range(2))
    with pytest.raises(RuntimeError, match="meta"):
        lookout.sees_the_end(settled)


def test_searches_that_look_later_find_the_same(search, model, make_rules, monkeypatch):
    model.table[..., 2] += 4  # the end word
    rules = make_rules(min_length=1, max_length=30)
    found, num_steps = search(model.step, model.init_state(), rules), model.num_steps
    monkeypatch.setitem(STEPS_BEHIND, "cpu", 2)
    model.num_steps = 0
    assert search(model.step, model.init_state(), rules) == found
    assert model.num_steps == min(num_steps + 2, 31)


def test_a_state_of_no_tensors_is_refused(search, model, make_rules):
    with pytest.raises(ValueError, match="state is empty"):
        search(model.step, {}, make_rules())


def test_a_state_of_several_sequences_is_refused(search, model, make_rules):
    state = {name: tensor.repeat_interleave(2, dim=1) for name, tensor in model.init_state().items()}
    with pytest.raises(ValueError, match="the state has 2"):
        search(model.step, state, make_rules())
