"""Parts described and built again; what is no part, or of another package, is refused."""

from __future__ import annotations

import json

import pytest
from checkpoint_cases import said
from torch import nn

from captioner.checkpoint import Bundle, CheckpointError, describe, load_model, rebuild, save_model
from captioner.models import AdditiveAttention, Attention, CaptionModel, Encoder, ShowAttendTell
from captioner.specs import SpecError, weights_digest
from captioner.types import Memory

HERE = __name__.partition(".")[0]


class Doubled(ShowAttendTell):
    """A decoder from outside the package, with arguments of every kind that a file keeps."""

    def __init__(
        self, feature_dim: int, vocab_size: int, scorer: Attention, names: tuple[str, ...], weights_of: dict[str, float]
    ) -> None:
        super().__init__(feature_dim, vocab_size, lambda *sizes: scorer, embed_dim=16, hidden_dim=16)
        self.scorer = scorer
        self.names = names
        self.weights_of = weights_of


class Forgetful(Encoder):
    """Does not keep its argument."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.feature_dim = 4
        self.layer = nn.Linear(size, 4)

    def forward(self, pixels):
        return Memory.from_grid(pixels)


class Secretive(Forgetful):
    """Keeps an argument that no file can hold."""

    def __init__(self, size: object) -> None:
        super().__init__(4)
        self.size = size


CHOICES = [
    {"gate": "none"},
    {"gate": "scalar", "deep_output": False},
    {"gate": "vector", "output_tanh": False, "gated_output": False},
    {"tie_embeddings": True, "hidden_dim": 24},
    {"dropout": 0.25, "normalise_features": False, "project_dim": 12},
    {"embed_dim": 20, "attention": lambda feature_dim, query_dim: AdditiveAttention(feature_dim, query_dim, 9)},
    {"encoder": {"trainable_from": "blocks.2", "mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)}, "fit": "crop"},
    {"encoder": {"name": "timm/test_efficientnet", "layer": "blocks.1", "output_stride": None}},
]


@pytest.mark.parametrize("choice", CHOICES, ids=lambda choice: ",".join(choice))
def test_every_argument_survives(make_bundle, draw, tmp_path, choice):
    made = make_bundle(**choice)
    save_model(made, tmp_path / "m.safetensors", "float32")
    loaded = load_model(tmp_path / "m.safetensors")
    assert {**describe(loaded), "provenance": None} == {**describe(made), "provenance": None}
    assert said(loaded, draw) == said(made, draw)
    trained = [name for name, weight in made.model.named_parameters() if weight.requires_grad]
    assert [name for name, weight in loaded.model.named_parameters() if weight.requires_grad] == trained


def test_parts_from_outside_need_trust(bundle, tmp_path):
    decoder = Doubled(256, bundle.tokenizer.vocab_size, AdditiveAttention(256, 16, 8), ("x", "y"), {"z": 0.5})
    model = CaptionModel(bundle.model.encoder, decoder)
    path = tmp_path / "m.safetensors"
    save_model(Bundle(model, bundle.tokenizer, bundle.transform), path)
    with pytest.raises(CheckpointError, match=f"Doubled, from outside.*--trust {HERE}"):
        load_model(path)
    loaded = load_model(path, trust=[HERE]).model.decoder
    assert type(loaded) is Doubled
    assert (loaded.names, loaded.weights_of) == (["x", "y"], {"z": 0.5})
    assert loaded.attention is loaded.scorer


def test_parts_that_a_file_cannot_describe_are_named(bundle, tmp_path):
    for encoder, message in (
        (Forgetful(4), r"must keep its argument 'size' as self.size"),
        (Secretive(object()), "'size'"),
    ):
        model = CaptionModel(encoder, bundle.model.decoder)
        with pytest.raises(ValueError, match=message):
            save_model(Bundle(model, bundle.tokenizer, bundle.transform), tmp_path / "m.safetensors")
    assert list(tmp_path.iterdir()) == []


CLASSES = [
    ("os.system", "os.system, from outside this package"),
    ("builtins.exec", "from outside"),
    ("captionerx.Encoder", "from outside"),
    ("exec", "from outside"),
    ("captioner.cli.main.main", "is no Encoder"),
    ("captioner.checkpoint.os.system", "not to be found"),
    ("captioner.checkpoint.bundle.Tokenizer", "is no Encoder"),
    ("captioner", "not to be found"),
    ("captioner.models.Decoder", "is no Encoder"),
    ("captioner.models.GridEncoder", "cannot be built"),
    ("captioner.models.NoSuchEncoder", "not to be found"),
    ("captioner.nowhere.Encoder", "not to be found"),
]


@pytest.mark.parametrize(("name", "message"), CLASSES)
def test_classes_that_are_not_parts(bundle, name, message):
    description = {**describe(bundle), "encoder": {"class": name, "args": {"command": "touch exploded"}}}
    with pytest.raises(SpecError, match=message):
        rebuild(description, bundle.model.state_dict())


def test_a_part_inside_a_part_is_checked_too(bundle):
    description = json.loads(json.dumps(describe(bundle)))
    description["decoder"]["args"]["attention"] = {"class": "os.system", "args": {}}
    with pytest.raises(SpecError, match=r"os\.system, from outside"):
        rebuild(description, bundle.model.state_dict())


def test_weights_digest_is_of_names_and_bytes():
    first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    digest = weights_digest(nn.Sequential(first, second))
    assert digest == weights_digest(nn.Sequential(first, second))
    assert digest != weights_digest(nn.Sequential(second, first))
    assert digest != weights_digest(nn.ModuleDict({"a": first, "b": second}))
