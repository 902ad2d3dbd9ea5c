"""A model with all that is needed to caption, and its description as JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from captioner.models import CaptionModel, Decoder, Encoder
from captioner.models.decoders.lstm import orthogonal
from captioner.specs import (
    OWN,
    build_part,
    describe_part,
    is_spec,
    name_weights,
    packages_in,
    weightless,
    weights_digest,
)
from captioner.tokenizer import Tokenizer
from captioner.types import Transform

FORMAT = 3  # 2: the transform is written by its kind; 1: of photos alone, without one
STORED_AS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""Number formats that weights may come in."""

KEY = "captioner"  # the one metadata entry; one sorted JSON text, so that one model is always the same bytes


class CheckpointError(ValueError):
    """A file that is not a model of ours, is damaged, or needs what is not at hand."""


@dataclass
class Bundle:
    """A model with all that is needed to caption.

    Attributes:
        model: the encoder and the decoder.
        tokenizer: the decoder's vocabulary.
        transform: how an image, a sentence or whatever else it reads is made ready for the encoder.
        provenance: where it comes from, JSON values: config, data, metrics, versions.
    """

    model: CaptionModel
    tokenizer: Tokenizer
    transform: Transform
    provenance: dict[str, Any] = field(default_factory=dict)


def require_known_format(description: Mapping[str, Any]) -> None:
    """Refuse what a later version has described.

    Raises:
        CheckpointError: it is of a later format.
    """
    if description["format"] > FORMAT:
        raise CheckpointError(
            f"made by a newer captioner (format {description['format']}, this one reads {FORMAT}): "
            "pip install --upgrade captioner"
        )


def describe(bundle: Bundle) -> dict[str, Any]:
    """All of a bundle but the weights, as JSON values."""
    return {
        "format": FORMAT,
        "encoder": describe_part(bundle.model.encoder),
        "encoder_digest": weights_digest(bundle.model.encoder),
        "decoder": describe_part(bundle.model.decoder),
        "tokenizer": bundle.tokenizer.to_json(),
        "transform": describe_part(bundle.transform),
        "provenance": bundle.provenance,
        "includes_encoder": True,
    }


def rebuild(description: Mapping[str, Any], tensors: Mapping[str, Tensor], trust: Sequence[str] = ()) -> Bundle:
    """The inverse of `describe`, with weights put in.

    Args:
        description: what `describe` gave.
        tensors: the model's state, in any number format; without the encoder's unless it includes them.
        trust: see `load_model`.

    Raises:
        SpecError: a class that may not be built, or cannot be built here.
        CheckpointError: weights that do not fit, or are not those it was trained with.
    """
    encoder_spec = description["encoder"]
    encoder = _unfilled(weightless(encoder_spec) if description["includes_encoder"] else encoder_spec, Encoder, trust)
    decoder = _unfilled(description["decoder"], Decoder, trust)
    tokenizer = Tokenizer.from_json(description["tokenizer"])
    own = {"feature_dim": encoder.feature_dim, "vocab_size": tokenizer.vocab_size}
    for name, size in own.items():
        if description["decoder"]["args"].get(name, size) != size:
            said = description["decoder"]["args"][name]
            raise CheckpointError(f"damaged: the decoder's {name} is {said}, and here it is {size}")
    if not description["includes_encoder"] and weights_digest(encoder) != description["encoder_digest"]:
        raise CheckpointError(
            f"the encoder's weights found here ({encoder_spec['args']}) are not those that it was trained with; where "
            "they are, `captioner export --include-encoder` puts them into the file"
        )
    model = CaptionModel(encoder, decoder)
    name_weights(encoder, encoder_spec)
    _load_weights(model, tensors, description["includes_encoder"])
    return Bundle(
        model,
        tokenizer,
        build_part(present_transform(description["transform"]), Transform, trust),
        description["provenance"],
    )


def _unfilled(spec: Mapping[str, Any], kind: type, trust: Sequence[str]) -> Any:
    """A part whose weights are to be put in.

    Parts of other packages draw theirs nevertheless: beside weights they may keep what is drawn and in no file.
    """
    with _Unfilled() if packages_in(spec) == {OWN} else nullcontext():
        return build_part(spec, kind, trust)


class _Unfilled(TorchFunctionMode):
    """Modules that are built in it draw no random weights: all are overwritten, and to draw them takes longest."""

    def __torch_function__(
        self, function: Callable, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Leave a tensor as it is where it was to be filled."""
        if function in (nn.init.uniform_, nn.init.normal_, nn.init.kaiming_uniform_):
            return (kwargs or {})["tensor"]
        if function in (Tensor.uniform_, Tensor.normal_, orthogonal):
            return args[0]
        return function(*args, **(kwargs or {}))


def present_transform(description: Mapping[str, Any]) -> Mapping[str, Any]:
    """The description of a transform, in a file of whatever format, as it is written today."""
    if is_spec(description):
        return description
    if not isinstance(description, Mapping):
        raise CheckpointError(f"damaged: {description!r} is no transform")
    args = dict(description)
    kind = args.pop("kind", "image")
    if kind == "image":
        return {"class": "captioner.data.ImageTransform", "args": args}
    if kind != "text":
        raise CheckpointError(f"damaged: {kind!r} is no kind of transform")
    tokenizer = {"class": "captioner.tokenizer.Tokenizer", "json": args["tokenizer"]}
    return {"class": "captioner.data.TextTransform", "args": {"tokenizer": tokenizer}}


def _require_format(name: str, stored: torch.dtype, wanted: torch.dtype) -> None:
    """See that a tensor is in a number format that can be at this place of the model."""
    formats = STORED_AS if wanted in STORED_AS else (wanted,)
    if stored not in formats:
        written = " or ".join(str(each).removeprefix("torch.") for each in formats)
        raise CheckpointError(f"{name} has numbers of {str(stored).removeprefix('torch.')}, not {written}")


def _is_finite(tensor: Tensor) -> bool:
    """Whether all numbers are; a sum, which is many times faster to have, is not if one of them is not."""
    return bool(torch.isfinite(tensor.sum())) or bool(torch.isfinite(tensor).all())


def _load_weights(model: CaptionModel, tensors: Mapping[str, Tensor], includes_encoder: bool) -> None:
    own = model.state_dict()
    stored_at = {own[name].data_ptr() for name in tensors if name in own}
    for name, tensor in own.items():
        if name in tensors:
            if tensors[name].shape != tensor.shape:
                raise CheckpointError(f"{name} is {tuple(tensors[name].shape)}, not {tuple(tensor.shape)}")
            _require_format(name, tensors[name].dtype, tensor.dtype)
        elif tensor.data_ptr() not in stored_at and (includes_encoder or not name.startswith("encoder.")):
            raise CheckpointError(f"damaged: {name} is missing")
    unknown = sorted(tensors.keys() - own.keys())
    if unknown:
        raise CheckpointError(f"damaged: {unknown[0]} belongs to no part of the model")
    model.load_state_dict(dict(tensors), strict=False)
    loaded = model.state_dict()
    for name in tensors:
        if not _is_finite(loaded[name]):
            raise CheckpointError(f"{name} has numbers that are not finite")
