"""What searches share: the sizes of their state, and how often they look whether all is settled."""

from __future__ import annotations

import pytest
import torch

from captioner.decoding.common import all_settled


def test_on_an_accelerator_only_every_fourth_step_waits_for_it():
    settled = torch.ones(3, dtype=torch.bool, device="meta")  # raises when looked at
    assert not any(all_settled(settled, num_steps) for num_steps in (1, 2, 3, 5))


def test_a_state_of_no_tensors_is_refused(search, model, make_rules):
    with pytest.raises(ValueError, match="state is empty"):
        search(model.step, {}, make_rules())


def test_a_state_of_several_sequences_is_refused(search, model, make_rules):
    state = {name: tensor.repeat_interleave(2, dim=1) for name, tensor in model.init_state().items()}
    with pytest.raises(ValueError, match="the state has 2"):
        search(model.step, state, make_rules())
