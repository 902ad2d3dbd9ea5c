"""A captioning task on drawn shapes."""

from __future__ import annotations

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import nn

from captioner.models import AdditiveAttention, Encoder, ShowAttendTell
from captioner.tasks.captioning import CaptioningTask
from captioner.types import Memory


class Patches(Encoder):
    """Four cells a picture."""

    def __init__(self, is_frozen: bool = False) -> None:
        super().__init__()
        self.is_frozen = is_frozen
        self.feature_dim = 12
        self.patches = nn.Conv2d(3, 12, 16, 16).requires_grad_(not is_frozen)

    def pretrained(self):
        return self.parameters()

    def forward(self, pixels):
        return Memory.from_grid(self.patches(pixels / 255).tanh())


def small(feature_dim: int, vocab_size: int) -> ShowAttendTell:
    scorer = lambda *sizes: AdditiveAttention(*sizes, 8)  # noqa: E731
    return ShowAttendTell(feature_dim, vocab_size, scorer, embed_dim=12, hidden_dim=12, dropout=0.0)


def make_task(data, encoder: Encoder | None = None, **options) -> CaptioningTask:
    torch.manual_seed(1)
    options = {"optimizer": lambda parameters: torch.optim.SGD(parameters, lr=0.1), "max_length": 8} | options
    decoder = options.pop("decoder", small)
    return CaptioningTask(encoder or Patches(), decoder, data.tokenizer, data.transform, **options)


def make_trainer(folder, **options) -> pl.Trainer:
    quiet = {
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "logger": False,
        "log_every_n_steps": 1,
    }
    if not any(isinstance(callback, ModelCheckpoint) for callback in options.get("callbacks", [])):
        quiet["enable_checkpointing"] = False
    return pl.Trainer(default_root_dir=folder, accelerator="cpu", **{"max_epochs": 1} | quiet | options)
