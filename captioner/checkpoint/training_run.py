"""Models in the checkpoints of training runs."""

from __future__ import annotations

import importlib.metadata
import json
import platform
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from captioner.checkpoint.bundle import KEY, CheckpointError, require_known_format
from captioner.configs import read_yaml
from captioner.version import __version__


def read_training(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The description of a run's model, and its state.

    Args:
        path: the `.ckpt` file; the run's `config.yaml`, two folders up, goes into the provenance.

    Raises:
        CheckpointError: the file is damaged, foreign or newer.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds, and in many lines, over damaged or unsafe files
        raise CheckpointError(
            f"damaged, or not a checkpoint that can be read without running code from it ({type(error).__name__})"
        ) from error
    if not isinstance(checkpoint, dict) or KEY not in checkpoint:
        raise CheckpointError("not the checkpoint of a captioner training run")
    require_known_format(checkpoint[KEY])
    prefix = "model."
    tensors = {
        name.removeprefix(prefix): tensor
        for name, tensor in checkpoint["state_dict"].items()
        if name.startswith(prefix)
    }
    return {**checkpoint[KEY], "provenance": _provenance(path, checkpoint)}, tensors


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
