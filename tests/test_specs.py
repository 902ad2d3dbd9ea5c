"""Parts described and built again; what is no part, or of another package, is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Annotated, Any, Literal, Optional

import pytest
from checkpoint_cases import said
from torch import nn

from captioner.checkpoint import Bundle, CheckpointError, describe, load_model, rebuild, save_model
from captioner.data import ImageTransform
from captioner.models import AdditiveAttention, Attention, CaptionModel, Encoder, ShowAttendTell
from captioner.specs import SpecError, arguments_of, class_of, kinds_of, packages_in, returned_by, weights_digest
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


@pytest.mark.parametrize(
    ("place", "spec", "message"),
    [
        ("attention", {"class": "captioner.models.GridEncoder", "args": {}}, "GridEncoder is no Attention"),
        ("attention", {"class": "captioner.seeds.stable_seed", "args": {}}, "stable_seed is no Attention"),
        ("attention", {"class": "captioner.data.ImageTransform", "args": {}}, "ImageTransform is no Attention"),
        ("hidden_dim", {"class": "captioner.bulk.plan.Plan", "args": {}}, "Plan is no "),
    ],
)
def test_a_part_inside_a_part_is_of_the_kind_that_is_wanted(bundle, place, spec, message):
    description = json.loads(json.dumps(describe(bundle)))
    description["decoder"]["args"][place] = spec
    with pytest.raises(SpecError, match=message):
        rebuild(description, bundle.model.state_dict())


class Base:
    """Its argument is handed on by the classes below."""

    def __init__(self, size: int, near: Attention | None = None) -> None: ...


class Middle(Base):
    """Hands on what it does not know."""

    def __init__(self, several: list[Encoder], *args: object, **kwargs: object) -> None: ...


class Last(Middle):
    """Does not."""

    def __init__(self, size: float, other: NotThere) -> None: ...  # noqa: F821 (as for type checkers alone)


def test_arguments_of_a_class_are_those_of_its_bases_too():
    assert arguments_of(Middle) == {"several": list[Encoder], "size": int, "near": Attention | None}
    assert arguments_of(Last) == {"size": float, "other": Any}
    assert arguments_of(object) == {}


@pytest.mark.parametrize(
    ("annotation", "kinds"),
    [
        (Encoder, (Encoder,)),
        (Encoder | Callable[[int], Encoder] | None, (Encoder,)),
        (Callable[[int, int], Attention], (Attention,)),
        (Optional[list[Encoder]] | dict[str, Attention], (Encoder, Attention)),  # noqa: UP045 (as others write it)
        (Annotated[Encoder, "noted"], (Encoder,)),
        (Any, ()),
        (object, ()),
        (Callable, ()),
        (Callable[..., Any], ()),
        (int | str | None, ()),
        (list[int], ()),
        (Literal["a", "b"], ()),
    ],
    ids=str,
)
def test_which_classes_an_argument_is_for(annotation, kinds):
    assert kinds_of(annotation) == kinds


def test_what_functions_say_they_return():
    def told() -> Encoder:
        raise NotImplementedError

    assert returned_by(told) is Encoder
    assert returned_by(lambda: 3) is Any
    assert returned_by(print) is Any


def test_classes_by_their_paths():
    assert class_of("captioner.data.transforms.ImageTransform") is ImageTransform
    assert class_of(f"{__name__}.Outer.Inner") is Outer.Inner
    for path in ("captioner.models.Nothing", "nowhere.Thing", "Thing", ""):
        with pytest.raises((ImportError, AttributeError, ValueError)):
            class_of(path)


class Outer:
    """Holds a class."""

    class Inner:
        """Within another."""


def test_the_packages_of_a_description():
    attention = {"class": "mine.Attention", "args": {"size": 3}}
    spec = {"class": "captioner.models.UpDown", "args": {"attention": attention, "several": [attention], "size": [1]}}
    assert packages_in(spec) == {"captioner", "mine"}
    assert packages_in({**spec, "args": {}}) == {"captioner"}


def test_weights_digest_is_of_names_and_bytes():
    first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    digest = weights_digest(nn.Sequential(first, second))
    assert digest == weights_digest(nn.Sequential(first, second))
    assert digest != weights_digest(nn.Sequential(second, first))
    assert digest != weights_digest(nn.ModuleDict({"a": first, "b": second}))
