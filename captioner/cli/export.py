"""`captioner export`: one safe model file of a training run."""

from __future__ import annotations

import argparse
from pathlib import Path

from captioner.cli.arguments.photos import add_trust


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "run",
        metavar="RUN_DIR_OR_CKPT",
        help="a run's folder (its best checkpoint is taken), a .ckpt file or a model file",
    )
    parser.add_argument("--output", required=True, metavar="FILE", help="the .safetensors file to write")
    parser.add_argument(
        "--dtype", default="float16", choices=("float16", "bfloat16", "float32"), help="number format of matrices"
    )
    parser.add_argument("--fit", choices=("squash", "crop", "pad"), help="how photos are fitted, if not as in training")
    parser.add_argument(
        "--include-encoder",
        action="store_true",
        default=None,
        help="put the weights of a frozen encoder into the file even where they can be found again without it",
    )
    add_trust(parser)


def run(args: argparse.Namespace) -> int:
    """Write the file."""
    from dataclasses import replace

    from captioner.checkpoint import load_model, save_model
    from captioner.data import ImageTransform

    if Path(args.output).suffix != ".safetensors":
        raise ValueError(f"--output {args.output}: the file's name must end in .safetensors")
    checkpoint = find_checkpoint(Path(args.run))
    bundle = load_model(checkpoint, args.trust)
    if args.fit:
        if not isinstance(bundle.transform, ImageTransform):
            raise ValueError(f"--fit is for photos, and this model reads {bundle.transform.reads}")
        bundle.transform = replace(bundle.transform, fit=args.fit)
    save_model(bundle, args.output, args.dtype, args.include_encoder)
    print(f"{args.output}: {Path(args.output).stat().st_size / 1e6:.1f} MB, from {checkpoint}")
    return 0


def find_checkpoint(run: Path) -> Path:
    """The checkpoint that is meant: the file itself, or the best one of a run's folder (else the last).

    Raises:
        ValueError: there is none, or several are called the best.
    """
    if run.is_file():
        return run
    folder = run / "checkpoints"
    best = sorted(folder.glob("best*.ckpt"))
    if len(best) > 1:
        raise ValueError(f"{folder}: several best checkpoints; give one of them: {', '.join(map(str, best))}")
    if best:
        return best[0]
    if (folder / "last.ckpt").is_file():
        return folder / "last.ckpt"
    raise ValueError(f"{run}: neither a .ckpt file nor a run's folder with checkpoints/")
