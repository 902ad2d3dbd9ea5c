"""Every part of the package, by existing: a number that is not possible is an error with its name and value."""

from __future__ import annotations

import importlib
import inspect
import math
import pkgutil

import pytest
from model_cases import Patches

import captioner
from captioner.data.images import Augmentation, ImageTransform
from captioner.losses import CaptionLoss
from captioner.models import Attention, Decoder, Encoder, ShowAttendTell
from captioner.models.attention.normalisers import Normaliser
from captioner.tasks.captioning import CaptionData, CaptioningTask, SampleCaptions, TextData
from captioner.tokenizer import TokenizerBuilder, WordLevel
from captioner.training import AveragedWeights, ExactResume, Schedule
from captioner.types import Transform

KINDS = (Attention, Normaliser, Decoder, Encoder, CaptionLoss, Schedule, Transform, Augmentation, TokenizerBuilder)
OTHERS = (AveragedWeights, SampleCaptions, ExactResume, CaptionData, TextData, CaptioningTask)
REQUIRED = {
    "feature_dim": 8,
    "query_dim": 8,
    "vocab_size": 9,
    "encoder": Patches(8),
    "encoders": [Patches(8)],
    "decoder": ShowAttendTell,
    "tokenizer": WordLevel(1).fit(["a"]),
    "transform": ImageTransform(32),
    "reader": None,
    "dirpath": "x",
}
SMALL = {
    "RegionEncoder": {"name": "fasterrcnn_mobilenet_v3_large_320_fpn", "weights": "none"},
    "GridEncoder": {"name": "timm/test_efficientnet", "weights": "none"},
}
MAY_BE_0 = {"warmup_steps", "num_samples", "num_workers"}
ANY = {"seed"}


def subclasses(kind: type) -> set[type]:
    return {kind, *(each for child in kind.__subclasses__() for each in subclasses(child))}


def parts() -> list[type]:
    for module in pkgutil.walk_packages(captioner.__path__, "captioner."):
        if not module.name.startswith(("captioner.cli", "captioner.bulk")) and "triton" not in module.name:
            importlib.import_module(module.name)
    found = {each for kind in KINDS for each in subclasses(kind) if each.__module__.startswith("captioner.")}
    made = (each for each in found if not inspect.isabstract(each) and not each.__name__.startswith("_"))
    return sorted([*made, *OTHERS], key=lambda cls: cls.__name__)


def wrong_numbers() -> list[tuple[type, str, object]]:
    """Each part with each number that it takes, and values that are none for it."""
    cases: list[tuple[type, str, object]] = []
    for cls in parts():
        for name, parameter in inspect.signature(cls).parameters.items():
            numbers = {"int": [-1, 0, 2**40, "3"], "float": [math.nan, -1.5, "0.5"]}
            if name in ANY:
                continue
            kind = str(parameter.annotation).partition(" |")[0]
            cases += [(cls, name, value) for value in numbers.get(kind, []) if value != 0 or name not in MAY_BE_0]
    return cases


WRONG = wrong_numbers()


def build(cls: type, **changes: object) -> object:
    required = {name: REQUIRED[name] for name in inspect.signature(cls).parameters if name in REQUIRED}
    return cls(**{**required, **SMALL.get(cls.__name__, {}), **changes})


@pytest.mark.parametrize("cls", parts(), ids=lambda cls: cls.__name__)
def test_a_part_is_built_of_possible_numbers(cls):
    build(cls)


@pytest.mark.parametrize(("cls", "name", "value"), WRONG, ids=lambda value: getattr(value, "__name__", str(value)))
def test_a_number_that_is_not_possible_is_refused_by_name(cls, name, value):
    with pytest.raises(ValueError, match=name) as caught:
        build(cls, **{name: value})
    assert str(value) in str(caught.value) or f"{value:,}" in str(caught.value)


def test_there_are_many():
    assert {(cls.__name__, name) for cls, name, _ in WRONG} >= {
        ("ShowAttendTell", "hidden_dim"),
        ("UpDown", "project_dim"),
        ("TransformerDecoder", "num_layers"),
        ("MultiHeadAttention", "num_heads"),
        ("HardAttention", "sampling_probability"),
        ("WordEncoder", "dropout"),
        ("RegionEncoder", "nms_threshold"),
        ("CaptionLoss", "doubly_stochastic"),
        ("WarmupCosine", "final"),
        ("ImageTransform", "size"),
        ("Augmentation", "flip"),
    }


@pytest.mark.parametrize(
    ("cls", "name", "value"),
    [
        ("GridEncoder", "mean", (0.5, math.nan, 0.5)),
        ("GridEncoder", "std", (0.5, 0.0, 0.5)),
        ("GridEncoder", "std", ()),
    ],
)
def test_normalisation_has_three_channels_of_numbers(cls, name, value):
    with pytest.raises(ValueError, match=f"{name} must be three"):
        build({part.__name__: part for part in parts()}[cls], **{name: value})
