"""A model described and put together again."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace

import pytest
import torch
from checkpoint_cases import refused

from captioner.checkpoint import CheckpointError, describe, load_model, rebuild, save_model
from captioner.checkpoint import bundle as bundle_module
from captioner.data import ImageTransform, TextTransform
from captioner.models import CaptionModel, ShowAttendTell
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


@pytest.mark.parametrize("transform", [[], None, "image", {"kind": "sound"}, {"kind": []}])
def test_what_is_no_transform(bundle, transform):
    with pytest.raises(CheckpointError, match="damaged: .* is no (kind of )?transform"):
        rebuild({**describe(bundle), "transform": transform}, bundle.model.state_dict())


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


def test_orthogonal_matrices_are_not_made_only_to_be_overwritten(bundle, monkeypatch):
    """They would take most of the time that it takes to load a large model."""
    description, state = describe(bundle), bundle.model.state_dict()

    def fail(*arguments, **options):
        raise AssertionError("an orthogonal matrix was made")

    monkeypatch.setattr(torch.nn.init, "orthogonal_", fail)
    assert weights_digest(rebuild(description, state).model) == weights_digest(bundle.model)
    with pytest.raises(AssertionError):
        ShowAttendTell(8, 9, hidden_dim=4)


class Drawn(ShowAttendTell):
    """Of another package; it keeps what it draws in no file."""

    def __init__(self, feature_dim: int, vocab_size: int) -> None:
        super().__init__(feature_dim, vocab_size, embed_dim=8, hidden_dim=8)
        generator = torch.Generator().manual_seed(5)
        self.register_buffer("noise", torch.empty(7).normal_(generator=generator), persistent=False)


def test_what_a_part_of_others_draws_it_has_after_loading(bundle):
    decoder = Drawn(256, bundle.tokenizer.vocab_size)
    made = replace(bundle, model=CaptionModel(bundle.model.encoder, decoder))
    package = Drawn.__module__.partition(".")[0]
    again = rebuild(describe(made), made.model.state_dict(), [package]).model.decoder
    assert torch.equal(again.noise, decoder.noise)
    assert again.noise.std() > 0.1


NUMBERS = [
    (lambda weight: torch.full_like(weight, torch.nan), r"{} has numbers that are not finite"),
    (lambda weight: torch.full_like(weight, -torch.inf), r"{} has numbers that are not finite"),
    (lambda weight: torch.full_like(weight, 1e300, dtype=torch.float64), r"{} has numbers that are not finite"),
    (lambda weight: weight.int(), r"{} has numbers of int32, not float16 or bfloat16 or float32"),
    (lambda weight: weight.bool(), r"{} has numbers of bool, not"),
    (lambda weight: weight.to(torch.complex64), r"{} has numbers of complex64, not"),
    (lambda weight: weight.to(torch.float8_e4m3fn), r"{} has numbers of float8_e4m3fn, not"),
]


@pytest.mark.parametrize(
    "name", ["decoder.output.weight", "decoder.output.bias", "encoder.network.network.bn1.running_var"]
)
@pytest.mark.parametrize(("change", "message"), NUMBERS)
def test_numbers_that_no_model_has(bundle, name, change, message):
    state = bundle.model.state_dict()
    with pytest.raises(CheckpointError, match=message.format(name)):
        rebuild(describe(bundle), {**state, name: change(state[name])})


def test_counters_are_whole_numbers(bundle):
    state = bundle.model.state_dict()
    name = next(name for name in state if name.endswith("num_batches_tracked"))
    with pytest.raises(CheckpointError, match=f"{name} has numbers of float32, not int64"):
        rebuild(describe(bundle), {**state, name: state[name].float()})


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_may_come_in_other_formats(bundle, dtype):
    state = {
        name: value.to(dtype) if value.is_floating_point() else value
        for name, value in bundle.model.state_dict().items()
    }
    assert {weight.dtype for weight in rebuild(describe(bundle), state).model.parameters()} == {torch.float32}


SIZES = [
    ("transform", "size", 100_000, "size must be a whole number from 1 to 8,192, not 100000"),
    ("transform", "size", "64", "size cannot be '64'"),
    ("decoder", "hidden_dim", 10**9, "hidden_dim must be a whole number from 1 to 1,048,576, not 1000000000"),
    ("decoder", "hidden_dim", 0, "hidden_dim must be"),
    ("decoder", "output_tanh", [1], r"its ShowAttendTell cannot be built: output_tanh cannot be \[1\]"),
    ("decoder", "tie_embeddings", 1, "tie_embeddings cannot be 1"),
    ("decoder", "gate", "vectr", "gate cannot be 'vectr'"),
    ("decoder", "hidden_dim", "16", "hidden_dim cannot be '16'"),
    ("decoder", "hidden_dim", None, "hidden_dim cannot be None"),
    ("decoder", "hidden_dim", True, "hidden_dim cannot be True"),
    ("encoder", "name", 3, "its GridEncoder cannot be built: name cannot be 3"),
    ("decoder", "dropout", 1.5, "dropout must be a number from 0 to 1, not 1.5"),
    ("decoder", "feature_dim", 3, "the decoder's feature_dim is 3, and here it is 256"),
    ("decoder", "vocab_size", 3, r"the decoder's vocab_size is 3, and here it is \d+"),
]


@pytest.mark.parametrize(("part", "name", "value", "message"), SIZES)
def test_sizes_that_no_model_has(bundle, part, name, value, message):
    description = json.loads(json.dumps(describe(bundle)))
    description[part]["args"][name] = value
    with pytest.raises((CheckpointError, SpecError), match=message):
        rebuild(description, bundle.model.state_dict())


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
