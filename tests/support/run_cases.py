"""A small training by the command."""

from __future__ import annotations

import json
from pathlib import Path

import captioner

TINY = Path(captioner.__file__).parents[1] / "configs" / "tiny.yaml"


def arguments(root: Path, epochs: int) -> list[str]:
    """The tiny config with fewer pictures and a smaller network."""
    changes = {
        "run_dir": root / "run",
        "trainer.max_epochs": epochs,
        "trainer.num_sanity_val_steps": 0,
        "trainer.enable_progress_bar": "false",
        "samples.num_samples": 1,
        "data.reader.init_args.root": root / "pictures",
        "data.reader.init_args.num_train": 8,
        "data.reader.init_args.num_dev": 4,
        "data.batch_size": 4,
        "model.encoder.init_args": json.dumps(
            {"name": "timm/test_efficientnet", "weights": "none", "output_stride": 16, "trainable_from": "blocks.2"}
        ),
    }
    return ["train", "fit", "-c", str(TINY), *(f"--{name}={value}" for name, value in changes.items())]
