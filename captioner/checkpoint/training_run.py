"""The checkpoints of training runs: read without running code, compared with the run that resumes."""

from __future__ import annotations

import importlib.metadata
import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from captioner.checkpoint.bundle import KEY, Bundle, CheckpointError, present_transform, require_known_format
from captioner.specs import describe_part
from captioner.texts import read_yaml
from captioner.tokenizer import Tokenizer
from captioner.version import __version__


def read_training(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The description of a run's model, and its state.

    Args:
        path: the `.ckpt` file; the run's `config.yaml`, two folders up, goes into the provenance.

    Raises:
        CheckpointError: the file is damaged, foreign or newer.
    """
    checkpoint = read_checkpoint(path)
    require_known_format(checkpoint[KEY])
    prefix = "model."
    tensors = {
        name.removeprefix(prefix): tensor
        for name, tensor in checkpoint["state_dict"].items()
        if name.startswith(prefix)
    }
    return {**checkpoint[KEY], "provenance": _provenance(path, checkpoint)}, tensors


def read_checkpoint(path: str | Path, map_location: Any | None = "cpu") -> dict[str, Any]:
    """All that a run's checkpoint holds: tensors and plain values, as reading it runs no code.

    Raises:
        CheckpointError: the path is a URL, or the file is damaged, foreign, or holds anything else.
        FileNotFoundError: there is no such file.
    """
    if "://" in str(path):
        raise CheckpointError("checkpoints are not read from URLs: download it, from where you trust")
    try:
        checkpoint = torch.load(path, map_location=map_location, weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:  # torch raises many kinds, and in many lines, over damaged or unsafe files
        raise CheckpointError(
            f"damaged, or not a checkpoint that can be read without running code from it ({type(error).__name__})"
        ) from error
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get(KEY), dict):
        raise CheckpointError("not the checkpoint of a captioner training run")
    return checkpoint


def require_resumable(
    checkpoint: Mapping[str, Any], bundle: Bundle, state: Mapping[str, Tensor], same_transform: bool
) -> None:
    """See that a model can take up a run's state, and that its words are that run's.

    Args:
        checkpoint: see `read_checkpoint`.
        bundle: the model that is to take it up, with what belongs to it.
        state: of all that is trained, the loss included.
        same_transform: whether what the model reads must be made ready as in that run.

    Raises:
        CheckpointError: it cannot, or they are not.
    """
    description = checkpoint[KEY]
    require_known_format(description)
    then = present_transform(description["transform"])
    differences = [
        ("vocabulary", Tokenizer.from_json(description["tokenizer"]).to_json() != bundle.tokenizer.to_json()),
        ("transform", same_transform and then != describe_part(bundle.transform)),
    ]
    for what, differs in differences:
        if differs:
            raise CheckpointError(
                f"the checkpoint's run had another {what} than this one: captions or settings of the data were changed "
                "since; resume with the run's own config.yaml and data, or start anew in another --run_dir"
            )
    stored = {name: tuple(tensor.shape) for name, tensor in checkpoint["state_dict"].items()}
    own = {name: tuple(tensor.shape) for name, tensor in state.items()}
    for name in sorted(stored.keys() | own.keys()):
        if stored.get(name) != own.get(name):
            raise CheckpointError(
                f"the checkpoint's run had another model than this one: {name} was {stored.get(name, 'not there')} and "
                f"is {own.get(name, 'not there')}; resume with the run's own config.yaml, or start anew in another "
                "--run_dir"
            )


def _provenance(path: Path, checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Config, metrics and versions of a run; nothing that differs between two exports of the same checkpoint."""
    config_file = path.resolve().parent.parent / "config.yaml"
    try:
        config = read_yaml(config_file) if config_file.is_file() else None
    except ValueError as error:
        raise CheckpointError(f"the config of its run cannot be read; mend or remove it ({error})") from error
    metrics = {
        state["monitor"]: float(state["current_score"])
        for state in checkpoint.get("callbacks", {}).values()
        if isinstance(state, dict) and state.get("monitor") and state.get("current_score") is not None
    }
    return {
        "config": json.loads(json.dumps(config, default=str)),  # YAML knows dates, too
        "epoch": checkpoint["epoch"],
        "step": checkpoint["global_step"],
        "metrics": metrics,
        "versions": {
            "captioner": __version__,
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "torchvision": importlib.metadata.version("torchvision"),
            "timm": importlib.metadata.version("timm"),
            "lightning": checkpoint["pytorch-lightning_version"],
        },
    }
