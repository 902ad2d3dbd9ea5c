"""One safe file per model: weights, vocabulary, preprocessing, architecture and provenance.

The file is `.safetensors`: tensors, and one JSON text that says how to put them together. Loading runs no
code from it: classes are looked up by name, in this package or in packages that the caller trusts.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
import yaml
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

import captioner
from captioner.data.feature_cache import weights_digest
from captioner.data.transforms import ImageTransform
from captioner.models import CaptionModel, Decoder, Encoder
from captioner.tokenizer import Tokenizer

FORMAT = 1
KEY = "captioner"  # the one metadata entry; one sorted JSON text, so that one model is always the same bytes
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


class CheckpointError(ValueError):
    """A file that is not a model of ours, is damaged, or needs what is not at hand."""


@dataclass
class Bundle:
    """A model with all that is needed to caption.

    Attributes:
        model: the encoder and the decoder.
        tokenizer: the decoder's vocabulary.
        transform: how an image is made ready for the encoder.
        provenance: where it comes from, JSON values: config, data, metrics, versions.
    """

    model: CaptionModel
    tokenizer: Tokenizer
    transform: ImageTransform
    provenance: dict[str, Any] = field(default_factory=dict)


def save_model(bundle: Bundle, path: str | Path, dtype: str = "float16", include_encoder: bool | None = None) -> None:
    """Write a model to one `.safetensors` file; the same model gives the same bytes.

    Args:
        bundle: what to save.
        path: the file, replaced whole or not at all.
        dtype: number format of the matrices ("float16", "bfloat16", "float32"); vectors stay float32.
        include_encoder: whether the encoder's weights go into the file; by default when it was fine-tuned.
            Otherwise the file names them, and they are fetched or found when it is loaded.

    Raises:
        ValueError: an unknown number format, or weights too large for it.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype {dtype!r} is not one of {', '.join(DTYPES)}")
    if include_encoder is None:
        include_encoder = not bundle.model.encoder.frozen
    description = describe(bundle)
    description["includes_encoder"] = include_encoder
    tensors: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in bundle.model.state_dict().items():
        if (name.startswith("encoder.") and not include_encoder) or tensor.data_ptr() in seen:
            continue  # a tied tensor is stored once
        seen.add(tensor.data_ptr())
        matrix = tensor.is_floating_point() and tensor.dim() > 1
        stored = tensor.detach().cpu().to(DTYPES[dtype] if matrix else tensor.dtype)
        if not torch.isfinite(stored).all():
            raise ValueError(f"{name} does not fit into {dtype}: choose bfloat16 or float32")
        tensors[name] = stored.contiguous()
    data = save(tensors, metadata={KEY: json.dumps(description, sort_keys=True)})
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    partial.write_bytes(data)
    partial.replace(path)


def load_model(path: str | Path, trust: Sequence[str] = ()) -> Bundle:
    """Read a model; on the CPU, in evaluation mode, computing in float32.

    Args:
        path: a `.safetensors` file that `save_model` wrote, or the `.ckpt` of a training run.
        trust: packages beside this one whose encoders, decoders and scorers may be built.

    Raises:
        CheckpointError: the file is missing, damaged, foreign or newer, or names what is not at hand.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such model file")
    description, tensors = _read_training(path) if path.suffix == ".ckpt" else _read_safetensors(path)
    try:
        if description["format"] > FORMAT:
            raise CheckpointError(
                f"made by a newer captioner (format {description['format']}, this one reads {FORMAT}): "
                "pip install --upgrade captioner"
            )
        bundle = rebuild(description, tensors, trust)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{path}: damaged: {type(error).__name__}: {error}") from error
    bundle.model.eval()
    return bundle


def _read_safetensors(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: damaged, or not a .safetensors file ({error})") from error
    if KEY not in metadata:
        raise CheckpointError(
            f"{path}: a .safetensors file, but not a captioner model; `captioner export` makes one from a training run"
        )
    try:
        return json.loads(metadata[KEY]), tensors
    except ValueError as error:
        raise CheckpointError(f"{path}: damaged: {error}") from error


def _read_training(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds over damaged or unsafe files
        raise CheckpointError(f"{path}: damaged, or not a checkpoint that can be read safely ({error})") from error
    if not isinstance(checkpoint, dict) or KEY not in checkpoint:
        raise CheckpointError(f"{path}: not the checkpoint of a captioner training run")
    prefix = "model."
    tensors = {
        name.removeprefix(prefix): tensor
        for name, tensor in checkpoint["state_dict"].items()
        if name.startswith(prefix)
    }
    return {**checkpoint[KEY], "provenance": _provenance(path, checkpoint)}, tensors


def describe(bundle: Bundle) -> dict[str, Any]:
    """All of a bundle but the weights, as JSON values."""
    return {
        "format": FORMAT,
        "encoder": _describe_module(bundle.model.encoder),
        "encoder_digest": weights_digest(bundle.model.encoder),
        "decoder": _describe_module(bundle.model.decoder),
        "tokenizer": bundle.tokenizer.to_json(),
        "transform": dataclasses.asdict(bundle.transform),
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
        CheckpointError: a class that may not be built, weights that do not fit or are not those it was trained with.
    """
    encoder_spec = description["encoder"]
    if description["includes_encoder"] and "weights" in encoder_spec["args"]:
        encoder_spec = {**encoder_spec, "args": {**encoder_spec["args"], "weights": "none"}}
    encoder = _build(encoder_spec, Encoder, trust)
    if not description["includes_encoder"] and weights_digest(encoder) != description["encoder_digest"]:
        raise CheckpointError(
            f"the encoder's weights found here ({encoder_spec['args']}) are not those that it was trained with"
        )
    model = CaptionModel(encoder, _build(description["decoder"], Decoder, trust))
    if "weights" in encoder_spec["args"]:
        encoder.weights = description["encoder"]["args"]["weights"]
    _load_weights(model, tensors, description["includes_encoder"])
    return Bundle(
        model,
        Tokenizer.from_json(description["tokenizer"]),
        ImageTransform(**description["transform"]),
        description["provenance"],
    )


def _load_weights(model: CaptionModel, tensors: Mapping[str, Tensor], includes_encoder: bool) -> None:
    own = model.state_dict()
    stored_at = {own[name].data_ptr() for name in tensors if name in own}
    for name, tensor in own.items():
        if name in tensors:
            if tensors[name].shape != tensor.shape:
                raise CheckpointError(f"{name} is {tuple(tensors[name].shape)}, not {tuple(tensor.shape)}")
        elif tensor.data_ptr() not in stored_at and (includes_encoder or not name.startswith("encoder.")):
            raise CheckpointError(f"damaged: {name} is missing")
    unknown = sorted(tensors.keys() - own.keys())
    if unknown:
        raise CheckpointError(f"damaged: {unknown[0]} belongs to no part of the model")
    model.load_state_dict(dict(tensors), strict=False)


def _describe_module(module: nn.Module) -> dict[str, Any]:
    """A module's class and constructor arguments, which every part keeps under their own names."""
    cls = type(module)
    args: dict[str, Any] = {}
    for name in inspect.signature(cls).parameters:
        try:
            value = getattr(module, name)
        except AttributeError:
            raise ValueError(
                f"{cls.__name__} must keep its argument {name!r} as self.{name}, so that a checkpoint can name it"
            ) from None
        if isinstance(value, nn.Module):
            value = _describe_module(value)
        elif isinstance(value, tuple):
            value = list(value)
        args[name] = value
    return {"class": f"{cls.__module__}.{cls.__qualname__}", "args": args}


def _build(spec: Mapping[str, Any], kind: type, trust: Sequence[str]) -> Any:
    """The module that `_describe_module` described, untrained."""
    module_name, _, class_name = spec["class"].rpartition(".")
    package = module_name.partition(".")[0]
    if package != __package__ and package not in trust:
        raise CheckpointError(
            f"it needs {spec['class']}, from outside this package; if you trust {package!r}, say trust=[{package!r}]"
        )
    try:
        cls = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError) as error:
        raise CheckpointError(f"it needs {spec['class']}, which is not to be found: {error}") from error
    if not (isinstance(cls, type) and issubclass(cls, kind)):
        raise CheckpointError(f"{spec['class']} is not a {kind.__name__}")
    args = {}
    for name, value in spec["args"].items():
        if isinstance(value, dict):
            part = _build(value, nn.Module, trust)
            is_factory = "Callable" in str(inspect.signature(cls).parameters[name].annotation)
            value = _returning(part) if is_factory else part
        args[name] = value
    return cls(**args)


def _returning(part: nn.Module) -> Callable[..., nn.Module]:
    """A factory that gives a part already built, whatever sizes it is asked for."""
    return lambda *sizes: part


def _provenance(path: Path, checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Config, metrics and versions of a run; nothing that differs between two exports of the same checkpoint."""
    config_file = path.parent.parent / "config.yaml"
    config = yaml.safe_load(config_file.read_text(encoding="utf-8")) if config_file.exists() else None
    metrics = {
        state["monitor"]: float(state["current_score"])
        for state in checkpoint.get("callbacks", {}).values()
        if isinstance(state, dict) and state.get("monitor") and state.get("current_score") is not None
    }
    return {
        "config": config,
        "epoch": checkpoint["epoch"],
        "step": checkpoint["global_step"],
        "metrics": metrics,
        "versions": {
            "captioner": captioner.__version__,
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "torchvision": str(torchvision.__version__),
            "timm": timm.__version__,
            "lightning": checkpoint["pytorch-lightning_version"],
        },
    }
