"""A model described and put together again."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace

import pytest
import torch
from checkpoint_cases import refused

from captioner.checkpoint import CheckpointError, describe, load_model, rebuild, save_model
from captioner.checkpoint import bundle as bundle_module
from captioner.data import ImageTransform, TextTransform
from captioner.specs import SpecError, weights_digest
from captioner.types import Transform


def test_the_source_vocabulary_is_a_part_of_the_digest(translator, tmp_path):
    path = tmp_path / "m.safetensors"
    save_model(translator, path)
    refused(path, path.read_bytes().replace(b"dritte", b"vierte"), "damaged")


def test_files_of_formats_1_and_2_are_read_as_before(bundle):
    for number, kind in ((1, {}), (2, {"kind": "image"})):
        old = {**describe(bundle), "format": number, "transform": {**asdict(bundle.transform), **kind}}
        assert rebuild(old, bundle.model.state_dict()).transform == bundle.transform


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


@dataclass(frozen=True)
class Asked(Transform):
    """A kind of input that this package does not know: a photo with a question."""

    reads = "photos with questions"

    photo: ImageTransform
    question: TextTransform

    def load(self, item, epoch, index):
        return self.open(item).tensor

    def stack(self, loaded):
        photos, questions = zip(*loaded, strict=True)
        return self.photo.stack(photos), self.question.stack(questions)

    def open(self, given):
        photo, question = given
        opened = self.photo.open(photo)
        return replace(opened, tensor=(opened.tensor, self.question(question)))


def test_a_new_kind_of_input_is_a_class_that_nobody_else_knows(bundle, tokenizer, tmp_path, draw):
    """Its arguments, vocabularies too, go into the file and come out of it."""
    transform = Asked(ImageTransform(64), TextTransform(tokenizer))
    path, package = tmp_path / "asked.safetensors", Asked.__module__.partition(".")[0]
    save_model(replace(bundle, transform=transform), path, "float32")
    with pytest.raises(CheckpointError, match="if you trust"):
        load_model(path)
    found = load_model(path, trust=[package]).transform
    photo, question = found.stack([found.open((draw(1), "a red dog")).tensor])
    assert torch.equal(photo[0], ImageTransform(64).open(draw(1)).tensor)
    assert question.tolist() == [tokenizer.encode("a red dog")]


def test_a_description_makes_no_other_class_from_text(bundle):
    description = describe(bundle)
    args = {"size": {"class": "captioner.bulk.plan.Plan", "json": "{}"}}
    with pytest.raises(SpecError, match="Plan is no Tokenizer"):
        rebuild({**description, "transform": {**description["transform"], "args": args}}, bundle.model.state_dict())
