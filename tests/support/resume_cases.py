"""Small trainings that can be cut off and resumed."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping, EMAWeightAveraging, ModelCheckpoint
from torch import nn

from captioner.data import Augmentation, ImageTransform
from captioner.data.readers import SyntheticShapes
from captioner.models import Encoder, ShowAttendTell
from captioner.tasks.captioning import CaptionData, CaptioningTask
from captioner.tokenizer import WordLevel
from captioner.training import AtomicCheckpointIO, ExactResume, WarmupCosine
from captioner.types import Memory

EPOCHS = 3
BATCHES = 5  # of an epoch

SETTINGS = {
    "plain": {},
    "without workers": {"workers": 0},
    "averaged weights": {"ema": True, "workers": 0},
    "accumulation and validation in mid-epoch": {"accumulate": 2, "val_check_interval": 3, "workers": 0},
    "early stopping": {"patience": 1, "min_delta": 9.0, "workers": 0},
}


class TinyEncoder(Encoder):
    """Four cells a picture, with dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.feature_dim = 12
        self.network = nn.Sequential(nn.Conv2d(3, 12, 16, 16), nn.BatchNorm2d(12), nn.Dropout(0.3))

    def forward(self, pixels):
        return Memory.from_grid(self.network(pixels / 255))


class Noise(pl.Callback):
    """Draws random numbers where they must not matter."""

    def on_validation_start(self, trainer, pl_module) -> None:
        torch.rand(7)

    def on_fit_start(self, trainer, pl_module) -> None:
        torch.rand(int.from_bytes(os.urandom(1), "big") + 1)


def train(
    folder: Path,
    setting: str,
    resume: bool = False,
    first: pl.Callback | None = None,
    plugin: AtomicCheckpointIO | None = None,
    **trained: object,
) -> dict:
    """One run; what it ends with.

    Args:
        folder: of the run.
        setting: one of `SETTINGS`.
        resume: whether it goes on from `last.ckpt`, where there is one.
        first: a callback that comes before the others.
        plugin: writes checkpoints.
        trained: what else the trainer, "accelerator" for one, or the task ("cuda_graphs", "compile") is told.
    """
    of_task = {name: trained.pop(name) for name in ("compile", "cuda_graphs") if name in trained}
    options = {"ema": False, "accumulate": 1, "val_check_interval": 1.0, "patience": 9, "min_delta": 0.0, "workers": 2}
    options |= SETTINGS[setting]
    pl.seed_everything(0 if not resume else 1, verbose=False)  # a resumed run goes on with its own seed
    data = CaptionData(
        SyntheticShapes(folder.parent / "shapes", num_train=38, num_dev=8, size=32),
        ImageTransform(32),
        WordLevel(min_count=1),
        Augmentation(),
        batch_size=8,
        eval_batch_size=4,
        captions_per_image=2,
        num_workers=options["workers"],
    )
    torch.manual_seed(0)
    task = CaptioningTask(
        TinyEncoder(),
        lambda feature_dim, vocab_size: ShowAttendTell(feature_dim, vocab_size, embed_dim=8, hidden_dim=8),
        data.tokenizer,
        data.transform,
        optimizer=lambda parameters: torch.optim.Adam(parameters, lr=1e-2),
        schedule=WarmupCosine(warmup_steps=4),
        max_length=8,
        **of_task,
    )
    best = ModelCheckpoint(folder, filename="best", monitor="val/nll", enable_version_counter=False)
    stopping = EarlyStopping("val/nll", patience=options["patience"], min_delta=options["min_delta"])
    callbacks = [stopping, best, Noise(), ExactResume(folder, every_n_steps=1)]
    if options["ema"]:
        callbacks.insert(0, EMAWeightAveraging(decay=0.8))
    if first is not None:
        callbacks.insert(0, first)
    trainer = pl.Trainer(
        default_root_dir=folder,
        max_epochs=EPOCHS,
        callbacks=callbacks,
        plugins=[plugin or AtomicCheckpointIO()],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accumulate_grad_batches=options["accumulate"],
        val_check_interval=options["val_check_interval"],
        **{"accelerator": "cpu"} | trained,
    )
    trainer.fit(task, data, ckpt_path=folder / "last.ckpt" if resume and (folder / "last.ckpt").exists() else None)
    state = torch.load(folder / "last.ckpt", map_location="cpu", weights_only=True)
    return {
        "weights": digest(task.state_dict()),
        "saved": digest(state["state_dict"]),
        "optimiser": digest(
            {str(key): value["exp_avg"] for key, value in state["optimizer_states"][0]["state"].items()}
        ),
        "schedule": state["lr_schedulers"][0]["last_epoch"],
        "epochs": trainer.current_epoch,
        "steps": trainer.global_step,
        "best": float(best.best_model_score),
        "waited": stopping.wait_count,
    }


def digest(tensors: dict) -> str:
    """A fingerprint of every bit."""
    joined = b"".join(name.encode() + tensor.cpu().numpy().tobytes() for name, tensor in sorted(tensors.items()))
    return hashlib.sha256(joined).hexdigest()[:16]
