"""The model file, written and read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from captioner.checkpoint.bundle import KEY, Bundle, CheckpointError, describe, rebuild, require_known_format
from captioner.checkpoint.training_run import read_training
from captioner.files import write_whole
from captioner.models import CaptionModel, Encoder
from captioner.specs import SpecError, build_part, describe_part, package_of, weights_digest

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


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
    write_whole(path, save(tensors, metadata={KEY: json.dumps(description, sort_keys=True)}))


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
        CheckpointError: the file is missing, damaged, foreign or newer, names what is not at hand, or holds what no
            model has: numbers that are not finite, or of another format.
    """
    if "://" in str(path):
        raise CheckpointError(f"{path}: a model is loaded from a file, not from an address: download it first")
    path = Path(path)
    if path.is_dir():
        raise CheckpointError(f"{path}: a folder; `captioner export` makes a model file of a training run")
    if not path.is_file():
        raise CheckpointError(f"{path}: no such model file")
    try:
        description, tensors = read_training(path) if path.suffix == ".ckpt" else _read_safetensors(path)
        bundle = rebuild(description, tensors, trust)
    except (CheckpointError, SpecError) as error:
        raise CheckpointError(f"{path}: {' '.join(str(error).split())}") from error
    except Exception as error:  # a damaged description can trip over anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise CheckpointError(f"{path}: damaged ({reason})") from error
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
    require_known_format(description)
    if description.pop("digest") != _digest(description, tensors):
        raise CheckpointError("damaged: its content is not what was saved")
    return description, tensors


def _digest(description: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of all that a file holds, by which any changed bit is noticed."""
    digest = hashlib.sha256(json.dumps(description, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _is_found_again(encoder: Encoder) -> bool:
    """Whether building an encoder anew, from its arguments alone, gives these very weights."""
    with torch.random.fork_rng(devices=[]):
        torch.seed()  # random weights must not come out equal by the luck of the caller's seed
        try:
            again = build_part(describe_part(encoder), Encoder, [package_of(encoder)])
        except SpecError:
            return False
    return weights_digest(again) == weights_digest(encoder)
