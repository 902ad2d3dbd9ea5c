"""One safe file per model: weights, vocabulary, preprocessing, architecture and provenance.

The file is `.safetensors`: tensors, and one JSON text that says how to put them together. Loading runs no
code from it: classes are looked up by name, in this package or in packages that the caller trusts.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import inspect
import json
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

import captioner
from captioner.data.feature_cache import weights_digest
from captioner.data.text import TextTransform
from captioner.data.transforms import ImageTransform
from captioner.models import CaptionModel, Decoder, Encoder
from captioner.tokenizer import Tokenizer

FORMAT = 2  # 1: models of photos alone, whose transform is written without its kind
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
        transform: how an image, or a sentence, is made ready for the encoder; of a sentence it holds the vocabulary.
        provenance: where it comes from, JSON values: config, data, metrics, versions.
    """

    model: CaptionModel
    tokenizer: Tokenizer
    transform: ImageTransform | TextTransform
    provenance: dict[str, Any] = field(default_factory=dict)


def save_model(bundle: Bundle, path: str | Path, dtype: str = "float16", include_encoder: bool | None = None) -> None:
    """Write a model to one `.safetensors` file; the same model gives the same bytes.

    Args:
        bundle: what to save.
        path: the file, replaced whole or not at all.
        dtype: number format of the matrices ("float16", "bfloat16", "float32"); vectors stay as they are.
        include_encoder: whether the encoder's weights go into the file. Otherwise the file names them, and they are
            fetched or found when it is loaded. By default they go in where they cannot be found again: where the
            encoder was fine-tuned, say.

    Raises:
        ValueError: an unknown number format, weights too large for it or not finite, parts that a file cannot
            describe, or an encoder that must be included and is not to be.
        OSError: the file cannot be written.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype {dtype!r} is not one of {', '.join(DTYPES)}")
    encoder = bundle.model.encoder
    if not include_encoder:
        is_found_again = encoder.frozen and _is_found_again(encoder)
        if include_encoder is False and not is_found_again:
            raise ValueError("the encoder's weights cannot be found again by its arguments: include them in the file")
        include_encoder = not is_found_again
    tensors = _stored(bundle.model, dtype, include_encoder)
    description = json.loads(json.dumps({**describe(bundle), "includes_encoder": include_encoder}))
    description["digest"] = _digest(description, tensors)
    _write_whole(Path(path), save(tensors, metadata={KEY: json.dumps(description, sort_keys=True)}))


def _stored(model: CaptionModel, dtype: str, include_encoder: bool) -> dict[str, Tensor]:
    """A model's state as it goes into a file, tied tensors once."""
    tensors: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in model.state_dict().items():
        if (name.startswith("encoder.") and not include_encoder) or tensor.data_ptr() in seen:
            continue
        seen.add(tensor.data_ptr())
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{name} has weights that are not finite numbers")
        matrix = tensor.is_floating_point() and tensor.dim() > 1
        tensors[name] = tensor.detach().cpu().to(DTYPES[dtype] if matrix else tensor.dtype).contiguous()
        if not torch.isfinite(tensors[name]).all():
            raise ValueError(f"{name} has weights too large for {dtype}: choose bfloat16 or float32")
    return tensors


def load_model(path: str | Path, trust: Sequence[str] = ()) -> Bundle:
    """Read a model; on the CPU, in evaluation mode, computing in float32.

    Args:
        path: a `.safetensors` file that `save_model` wrote, or the `.ckpt` of a training run.
        trust: packages beside this one whose encoders, decoders and scorers may be built.

    Raises:
        CheckpointError: the file is missing, damaged, foreign or newer, or names what is not at hand.
    """
    path = Path(path)
    if path.is_dir():
        raise CheckpointError(f"{path}: a folder; `captioner export` makes a model file of a training run")
    if not path.is_file():
        raise CheckpointError(f"{path}: no such model file")
    try:
        description, tensors = _read_training(path) if path.suffix == ".ckpt" else _read_safetensors(path)
        bundle = rebuild(description, tensors, trust)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except Exception as error:  # a damaged description can trip over anything
        raise CheckpointError(f"{path}: damaged ({type(error).__name__}: {error})") from error
    bundle.model.eval()
    return bundle


def _read_safetensors(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"damaged, or not a .safetensors file ({error})") from error
    if KEY not in metadata:
        raise CheckpointError(
            "a .safetensors file, but not a captioner model; `captioner export` makes one from a training run"
        )
    description = json.loads(metadata[KEY])
    _require_known_format(description)
    if description.pop("digest") != _digest(description, tensors):
        raise CheckpointError("damaged: its content is not what was saved")
    return description, tensors


def _read_training(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds, and in many lines, over damaged or unsafe files
        raise CheckpointError(
            f"damaged, or not a checkpoint that can be read without running code from it ({type(error).__name__})"
        ) from error
    if not isinstance(checkpoint, dict) or KEY not in checkpoint:
        raise CheckpointError("not the checkpoint of a captioner training run")
    _require_known_format(checkpoint[KEY])
    prefix = "model."
    tensors = {
        name.removeprefix(prefix): tensor
        for name, tensor in checkpoint["state_dict"].items()
        if name.startswith(prefix)
    }
    return {**checkpoint[KEY], "provenance": _provenance(path, checkpoint)}, tensors


def _require_known_format(description: Mapping[str, Any]) -> None:
    if description["format"] > FORMAT:
        raise CheckpointError(
            f"made by a newer captioner (format {description['format']}, this one reads {FORMAT}): "
            "pip install --upgrade captioner"
        )


def _digest(description: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of all that a file holds, by which any changed bit is noticed."""
    digest = hashlib.sha256(json.dumps(description, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _write_whole(path: Path, data: bytes) -> None:
    """Write under another name first, so that a kill or a full disk leaves no half file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        partial.write_bytes(data)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _is_found_again(encoder: Encoder) -> bool:
    """Whether building an encoder anew, from its arguments alone, gives these very weights."""
    with torch.random.fork_rng(devices=[]):
        torch.seed()  # random weights must not come out equal by the luck of the caller's seed
        try:
            again = _build(_describe_module(encoder), Encoder, [_package_of(encoder)])
        except CheckpointError:
            return False
    return weights_digest(again) == weights_digest(encoder)


def describe(bundle: Bundle) -> dict[str, Any]:
    """All of a bundle but the weights, as JSON values."""
    return {
        "format": FORMAT,
        "encoder": _describe_module(bundle.model.encoder),
        "encoder_digest": weights_digest(bundle.model.encoder),
        "decoder": _describe_module(bundle.model.decoder),
        "tokenizer": bundle.tokenizer.to_json(),
        "transform": _describe_transform(bundle.transform),
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
    with _Unfilled():
        encoder = _build(_weightless(encoder_spec) if description["includes_encoder"] else encoder_spec, Encoder, trust)
        decoder = _build(description["decoder"], Decoder, trust)
    if not description["includes_encoder"] and weights_digest(encoder) != description["encoder_digest"]:
        raise CheckpointError(
            f"the encoder's weights found here ({encoder_spec['args']}) are not those that it was trained with; where "
            "they are, `captioner export --include-encoder` puts them into the file"
        )
    model = CaptionModel(encoder, decoder)
    _name_weights(encoder, encoder_spec)
    _load_weights(model, tensors, description["includes_encoder"])
    return Bundle(
        model,
        Tokenizer.from_json(description["tokenizer"]),
        _build_transform(description["transform"]),
        description["provenance"],
    )


class _Unfilled(TorchFunctionMode):
    """Modules that are built in it draw no random weights: all are overwritten, and to draw them takes longest."""

    def __torch_function__(
        self, function: Callable, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Leave a tensor as it is where it was to be filled."""
        if function in (nn.init.uniform_, nn.init.normal_, nn.init.kaiming_uniform_):
            return (kwargs or {})["tensor"]
        if function in (Tensor.uniform_, Tensor.normal_):
            return args[0]
        return function(*args, **(kwargs or {}))


def _describe_transform(transform: ImageTransform | TextTransform) -> dict[str, Any]:
    if isinstance(transform, TextTransform):
        return {"kind": "text", "tokenizer": transform.tokenizer.to_json()}
    return {"kind": "image", **dataclasses.asdict(transform)}


def _build_transform(description: Mapping[str, Any]) -> ImageTransform | TextTransform:
    """The transform that `_describe_transform` described, or a file of format 1."""
    args = dict(description)
    if args.pop("kind", "image") == "image":
        return ImageTransform(**args)
    return TextTransform(Tokenizer.from_json(args["tokenizer"]))


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
        if isinstance(value, nn.ModuleList):
            args[name] = [_describe_module(part) for part in value]
            continue
        if isinstance(value, nn.Module):
            args[name] = _describe_module(value)
            continue
        try:
            args[name] = json.loads(json.dumps(value))  # tuples become lists
        except TypeError:
            raise ValueError(
                f"{cls.__name__}'s argument {name!r} is a {type(value).__name__}: a checkpoint keeps numbers, texts, "
                "lists, dicts and modules"
            ) from None
    return {"class": f"{cls.__module__}.{cls.__qualname__}", "args": args}


def _build(spec: Mapping[str, Any], kind: type, trust: Sequence[str]) -> Any:
    """The module that `_describe_module` described, untrained."""
    module_name, _, class_name = spec["class"].rpartition(".")
    package = module_name.partition(".")[0]
    if package != __package__ and package not in trust:
        raise CheckpointError(
            f"it needs {spec['class']}, from outside this package; if you trust {package!r}, say so: "
            f"trust=[{package!r}], or --trust {package} on the command line"
        )
    try:
        cls = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError) as error:
        raise CheckpointError(f"it needs {spec['class']}, which is not to be found: {error}") from error
    if not (isinstance(cls, type) and issubclass(cls, kind)):
        raise CheckpointError(f"{spec['class']} is no {kind.__name__}")
    args = {}
    for name, value in spec["args"].items():
        if isinstance(value, list):
            value = [_build(part, nn.Module, trust) if _is_spec(part) else part for part in value]
        elif _is_spec(value):
            is_factory = "Callable" in str(inspect.signature(cls).parameters[name].annotation)
            value = _builder(value, trust) if is_factory else _build(value, nn.Module, trust)
        args[name] = value
    try:
        return cls(**args)
    except (ValueError, RuntimeError, OSError) as error:  # weights that are not at hand, say
        raise CheckpointError(f"its {class_name} cannot be built: {error}") from error


def _is_spec(value: Any) -> bool:
    """Whether an argument is a module that `_describe_module` described."""
    return isinstance(value, dict) and value.keys() == {"class", "args"}


def _weightless(value: Any) -> Any:
    """A description whose modules, at any depth, begin without weights, as these are to be put in."""
    if isinstance(value, list):
        return [_weightless(part) for part in value]
    if not _is_spec(value):
        return value
    args = {name: "none" if name == "weights" else _weightless(part) for name, part in value["args"].items()}
    return {**value, "args": args}


def _name_weights(module: Any, spec: Mapping[str, Any]) -> None:
    """Let modules, at any depth, say again where their weights came from."""
    for name, value in spec["args"].items():
        if name == "weights":
            module.weights = value
        elif _is_spec(value):
            _name_weights(getattr(module, name), value)
        elif isinstance(value, list):
            for number, part in enumerate(value):
                if _is_spec(part):
                    _name_weights(getattr(module, name)[number], part)


def _package_of(module: nn.Module) -> str:
    return type(module).__module__.partition(".")[0]


def _builder(spec: Mapping[str, Any], trust: Sequence[str]) -> Callable[..., nn.Module]:
    """A factory of a part that is described with its sizes, whatever sizes it is asked for; anew at each call."""
    return lambda *sizes: _build(spec, nn.Module, trust)


def _provenance(path: Path, checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Config, metrics and versions of a run; nothing that differs between two exports of the same checkpoint."""
    import yaml

    config_file = path.resolve().parent.parent / "config.yaml"
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
            "torchvision": importlib.metadata.version("torchvision"),
            "timm": importlib.metadata.version("timm"),
            "lightning": checkpoint["pytorch-lightning_version"],
        },
    }
