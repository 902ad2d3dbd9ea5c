"""Exact resume: a run that was killed and goes on from `last.ckpt` ends with the same weights, bit for bit.

Lightning restores weights, optimiser, schedule and counters. What it lacks is here and in the data:

- Which images come next: `data.batches.ResumableLoader` counts the batches that were used. (Lightning would hand its
  state back, but not after `estimated_stepping_batches`, which a schedule asks for: that makes the loader too early.)
- Random numbers (dropout): rather than saving the generators' states, every training batch is begun with a seed made
  of (seed, epoch, batch, process). Then nothing else that draws numbers, such as validation or
  the start of workers, can make a difference. Augmentation has its own seeds, see `data`.
- When to save: in mid-epoch after an optimiser step that no validation follows, and at an epoch's very end, after
  early stopping and the best checkpoint have had their say. Saved between an epoch's last step and its
  validation, Lightning would leave that validation out.
- Whole files: a checkpoint replaces the one before it when it is on the disk, not earlier.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.trainer.states import TrainerFn

from captioner.checkpoint import CheckpointError, read_checkpoint
from captioner.data.batches import ResumableLoader
from captioner.files import whole_file
from captioner.seeds import stable_seed
from captioner.types.limits import require_sizes

KEY = "exact_resume"  # in a checkpoint


class ExactResume(Checkpoint):
    """Seeds every training batch, and keeps `last.ckpt`, from which `fit(..., ckpt_path=...)` goes on exactly.

    It must be the last of the trainer's callbacks, so that what the others decide at an epoch's end is saved.
    The same software, kind of device and number of processes are needed for the same bits, and on a GPU
    `Trainer(deterministic=True)`.

    Args:
        dirpath: the folder of `last.ckpt`.
        every_n_steps: optimiser steps between two saves in mid-epoch; after an epoch it is always saved.
    """

    def __init__(self, dirpath: str | Path, every_n_steps: int = 200) -> None:
        require_sizes(every_n_steps=every_n_steps)
        self.dirpath = dirpath
        self.every_n_steps = every_n_steps
        self.path = Path(dirpath) / "last.ckpt"
        self.seed: int | None = None
        self.saved_at = 0  # the optimiser step
        self.has_trained = False
        self.position: dict[str, Any] | None = None  # of the loader, in the run that is resumed
        self.stopped = False  # whether the run that is resumed had been stopped early

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the seed of `seed_everything`, unless the run that is resumed had another."""
        if trainer.callbacks[-1] is not self:  # type: ignore[attr-defined]
            raise ValueError("ExactResume must be the last callback: others change what it has to save")
        # A resumed run by steps would begin the finished epoch anew; a fast_dev_run is one, but is never resumed.
        if trainer.max_steps != -1 and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            raise ValueError("exact resume needs training by epochs: give max_epochs, not max_steps")
        if self.seed is None:
            self.seed = torch.initial_seed()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Go to where the run that is resumed was; stay stopped where it had been stopped early."""
        if any(config.reduce_on_plateau for config in trainer.lr_scheduler_configs):  # it moves after the last save
            raise ValueError("exact resume does not go with ReduceLROnPlateau: choose a schedule of steps or epochs")
        self.has_trained, self.saved_at = True, trainer.global_step
        if self.position is not None:
            _loader(trainer).load_state_dict(self.position)
            self.position = None
        trainer.should_stop = trainer.should_stop or self.stopped

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Begin the batch with its own random numbers."""
        assert self.seed is not None
        seed = stable_seed("batch", self.seed, trainer.current_epoch, batch_idx, trainer.global_rank)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save in mid-epoch, where it is time and nothing is half done."""
        due = trainer.global_step - self.saved_at >= self.every_n_steps
        has_stepped = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if due and has_stepped and not trainer.is_last_batch and not _validation_follows(trainer, batch_idx):
            self._save(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save when all of an epoch is done."""
        self._save(trainer)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add what a resumed run needs, to any checkpoint of a training."""
        if trainer.state.fn != TrainerFn.FITTING:
            return
        checkpoint[KEY] = {
            "seed": self.seed,
            "position": _loader(trainer).state_dict(),
            "stopped": trainer.should_stop,
        }

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Read what `on_save_checkpoint` wrote."""
        if trainer.state.fn != TrainerFn.FITTING:
            return
        if KEY not in checkpoint:
            raise ValueError("this checkpoint was saved without ExactResume: it can be loaded, but not resumed exactly")
        state = checkpoint[KEY]
        self.seed, self.position, self.stopped = state["seed"], state["position"], state["stopped"]

    def _save(self, trainer: pl.Trainer) -> None:
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self.saved_at = trainer.global_step
            trainer.save_checkpoint(self.path)


def _loader(trainer: pl.Trainer) -> ResumableLoader:
    loader = trainer.train_dataloader
    if not isinstance(loader, ResumableLoader):
        raise TypeError(f"exact resume needs training batches from a ResumableLoader, not a {type(loader).__name__}")
    return loader


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint whole or not at all, see `files.whole_file`.

    For local files; Lightning's own leaves its temporary file in another folder and does not wait for the disk, and
    unpickles what a URL leads to.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """See `CheckpointIO.save_checkpoint`."""
        with whole_file(path) as file:
            torch.save(checkpoint, file)

    def load_checkpoint(
        self, path: str | Path, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """See `CheckpointIO.load_checkpoint`; what is read can run no code, whatever `weights_only` is.

        Raises:
            CheckpointError: the path is a URL, or the file is damaged, or holds more than tensors and plain values.
        """
        try:
            return read_checkpoint(path, map_location)
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error}") from error


def _validation_follows(trainer: pl.Trainer, batch_idx: int) -> bool:
    """Whether a batch may be followed by a validation, in the middle of an epoch."""
    interval = trainer.val_check_batch
    if interval is None or interval == float("inf"):
        return False
    num_batches = trainer.fit_loop.total_batch_idx + 1 if trainer.check_val_every_n_epoch is None else batch_idx + 1
    return num_batches % int(interval) == 0
