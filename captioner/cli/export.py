"""`captioner export`: one safe model file of a training run."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from captioner.checkpoint import Bundle


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("run", metavar="RUN_DIR_OR_CKPT", help="a run's folder (its best checkpoint is taken) or a .ckpt file")
    parser.add_argument("--output", required=True, metavar="FILE", help="the .safetensors file to write")
    parser.add_argument("--dtype", default="float16", choices=("float16", "bfloat16", "float32"), help="number format of matrices")
    parser.add_argument("--fit", choices=("squash", "crop", "pad"), help="how photos are fitted, if not as in training")
    parser.add_argument(
        "--include-encoder", action="store_true", default=None, help="put a frozen encoder's weights into the file as well"
    )


def run(args: argparse.Namespace) -> int:
    """Write the file."""
    from dataclasses import replace

    from captioner.checkpoint import save_model

    if Path(args.output).suffix != ".safetensors":
        raise ValueError(f"--output {args.output}: the file's name must end in .safetensors")
    bundle = read_training_checkpoint(find_checkpoint(Path(args.run)))
    if args.fit:
        bundle.transform = replace(bundle.transform, fit=args.fit)
    save_model(bundle, args.output, args.dtype, args.include_encoder)
    print(f"{args.output}: {Path(args.output).stat().st_size / 1e6:.1f} MB")
    return 0


def find_checkpoint(run: Path) -> Path:
    """The checkpoint that is meant: the file itself, or the best one of a run's folder (else the last).

    Raises:
        ValueError: there is none.
    """
    if run.is_file():
        return run
    folder = run / "checkpoints"
    best = sorted(folder.glob("best*.ckpt"), key=lambda path: path.stat().st_mtime)
    found = [*(path for path in (folder / "last.ckpt",) if path.exists()), *best]
    if not found:
        raise ValueError(f"{run}: neither a .ckpt file nor a run's folder with checkpoints/")
    return found[-1]


def read_training_checkpoint(path: Path) -> Bundle:
    """The model in a Lightning checkpoint of `CaptioningTask`, with where it comes from; no code in it is run.

    Raises:
        ValueError: the file cannot be read, or is another program's checkpoint.
    """
    import torch

    from captioner.checkpoint import rebuild

    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        description = checkpoint["captioner"]
    except KeyError as error:
        raise ValueError(f"{path}: not a checkpoint of a captioner training run") from error
    except Exception as error:  # torch raises many kinds over damaged or unsafe files
        raise ValueError(f"{path}: damaged, or not a checkpoint that can be read safely ({error})") from error
    prefix = "model."
    tensors = {
        name.removeprefix(prefix): tensor
        for name, tensor in checkpoint["state_dict"].items()
        if name.startswith(prefix)
    }
    bundle = rebuild(description, tensors)
    bundle.provenance = provenance(path, checkpoint)
    return bundle


def provenance(path: Path, checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Config, metrics and versions of a run; nothing that differs between two exports of the same checkpoint."""
    import platform

    import timm
    import torch
    import torchvision
    import yaml

    import captioner

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
