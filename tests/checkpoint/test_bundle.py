"""A model described and put together again."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from checkpoint_cases import refused

from captioner.checkpoint import CheckpointError, describe, rebuild, save_model
from captioner.checkpoint import bundle as bundle_module
from captioner.specs import weights_digest


def test_the_source_vocabulary_is_a_part_of_the_digest(translator, tmp_path):
    path = tmp_path / "m.safetensors"
    save_model(translator, path)
    refused(path, path.read_bytes().replace(b"dritte", b"vierte"), "damaged")


def test_a_file_of_format_1_is_read_as_before(bundle):
    description = describe(bundle)
    assert description["transform"].pop("kind") == "image"
    old = rebuild({**description, "format": 1}, bundle.model.state_dict())
    assert old.transform == bundle.transform


def test_tensors_that_do_not_fit(bundle):
    state = bundle.model.state_dict()
    name = "decoder.attention.key.weight"
    with pytest.raises(CheckpointError, match=f"{name} is missing"):
        rebuild(describe(bundle), {key: value for key, value in state.items() if key != name})
    with pytest.raises(CheckpointError, match=rf"{name} is \(3,\), not \(8, 256\)"):
        rebuild(describe(bundle), {**state, name: torch.zeros(3)})
    with pytest.raises(CheckpointError, match="spare belongs to no part"):
        rebuild(describe(bundle), {**state, "spare": torch.zeros(3)})


@pytest.mark.parametrize("trained", [{}, {"encoder": {"trainable_from": "blocks.2"}, "tie_embeddings": True}])
def test_weights_that_are_overwritten_are_not_drawn_first(make_bundle, monkeypatch, trained):
    made = make_bundle(**trained)
    description, state = describe(made), made.model.state_dict()
    before = torch.random.get_rng_state()
    rebuilt = rebuild(description, state).model
    assert torch.equal(torch.nn.Linear(64, 8).weight, torch.nn.Linear(64, 8).weight) is False  # others still draw
    monkeypatch.setattr(bundle_module, "_Unfilled", nullcontext)
    torch.random.set_rng_state(before)
    drawn_first = rebuild(description, state).model
    assert weights_digest(rebuilt) == weights_digest(drawn_first) == weights_digest(made.model)
