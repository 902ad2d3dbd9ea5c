"""Callbacks of a training that must end in time: what its steps take, how it goes, and how it is left to be resumed."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from captioner.training import ExactResume
from captioner.types import Batch

SECONDS_BETWEEN_SAVES = 20.0
WARM_UP, TIMED = 5, 15  # steps: the first ones are slower, and only the others are measured
READY = 2  # batches that a worker loads ahead


class OutOfTimeError(Exception):
    """The deadline has passed, and what is needed to resume is saved."""


class UntilDeadline(ExactResume):
    """Saves now and then, and leaves the training when it has passed its deadline, to be resumed exactly.

    Lightning's own ways to stop (`max_time`, `should_stop`) end the epoch as if it were whole.

    Args:
        dirpath: the folder of `last.ckpt`.
        deadline: of the monotonic clock, in seconds.
    """

    def __init__(self, dirpath: Path, deadline: float) -> None:
        super().__init__(dirpath)
        self.deadline = deadline
        self.next_save = time.monotonic() + SECONDS_BETWEEN_SAVES

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        """Save where it is time; leave after the deadline, unless the epoch ends here anyway."""
        is_late = time.monotonic() > self.deadline
        self.every_n_steps = 1 if is_late or time.monotonic() > self.next_save else sys.maxsize
        before = self.saved_at
        super().on_train_batch_end(trainer, pl_module, *args)
        if self.saved_at > before:
            self._saved(is_late)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The same at an epoch's end; the last one is always saved."""
        now, is_last = time.monotonic(), trainer.current_epoch + 1 == trainer.max_epochs
        if is_last or now > min(self.deadline, self.next_save):
            super().on_train_epoch_end(trainer, pl_module)
            self._saved(now > self.deadline and not is_last)

    def _saved(self, is_late: bool) -> None:
        self.next_save = time.monotonic() + SECONDS_BETWEEN_SAVES
        if is_late:
            raise OutOfTimeError


class Progress(pl.Callback):
    """A line for each epoch, and what was done in how many seconds, in all runs of a training together."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say
        self.done = {"seconds": 0.0, "photos": 0, "captions": 0}
        self.mark = self.epoch_began = time.monotonic()
        self.losses: list[torch.Tensor] = []  # of the epoch, on the device: nobody waits for them

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"done": dict(self.done)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting."""
        self.done = dict(state_dict["done"])

    def rates(self) -> dict[str, float | None]:
        """What was done in a second of training, and in how many seconds."""
        seconds = self.done["seconds"]
        per_second = {
            f"{name}_per_second": round(self.done[name] / seconds, 1) if seconds else None
            for name in ("photos", "captions")
        }
        return {**per_second, "training_seconds": round(seconds, 1)}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock where a training is resumed in mid-epoch."""
        self.mark = self.epoch_began = time.monotonic()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self.mark = self.epoch_began = time.monotonic()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Count."""
        if trainer.is_last_batch:
            _wait_for(pl_module.device)
        self.losses.append(trainer.callback_metrics["train/loss"])
        self.done["photos"] += len(batch.lengths)
        self.done["captions"] += int((batch.lengths > 0).sum())
        now = time.monotonic()
        self.done["seconds"] += now - self.mark
        self.mark = now

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say how it goes."""
        metrics, epoch = trainer.callback_metrics, trainer.current_epoch + 1
        figures = [f"train loss {torch.stack(self.losses).mean():.3f}"]
        if epoch % (trainer.check_val_every_n_epoch or 1) == 0:
            figures += [
                f"val {name} {metrics[f'val/{name}']:.2f}" for name in ("nll", "cider") if f"val/{name}" in metrics
            ]
        seconds = time.monotonic() - self.epoch_began
        self.say(f"epoch {epoch}/{trainer.max_epochs}: {', '.join(figures)}, {seconds:.1f} s")
        self.losses = []


class Timing(pl.Callback):
    """Times the first steps of a training, and ends it; and batches of a validation.

    Args:
        seconds: the most that the first steps, which are not measured, may take; and those that are.
        num_workers: that load batches, and have some ready when the training begins: these are used up first.
        compiled: whether something is compiled, which makes several of the first steps slow, however long that takes.
    """

    def __init__(self, seconds: float, num_workers: int, compiled: bool = False) -> None:
        self.seconds = seconds
        self.warm_up = WARM_UP + READY * num_workers
        self.at_least = WARM_UP if compiled else 1
        self.num_steps = 0
        self.first_steps = 0  # before the measured ones
        self.mark = time.monotonic()
        self.warming_up = self.per_step = self.per_validation_batch = 0.0

    @property
    def starting(self) -> float:
        """Seconds that the first steps took longer than others."""
        return max(0.0, self.warming_up - self.first_steps * self.per_step)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self.mark = time.monotonic()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        """Measure, once it is warm."""
        self.num_steps += 1
        is_warm, elapsed = self.first_steps > 0, time.monotonic() - self.mark
        num_steps = self.num_steps - self.first_steps
        wanted, at_least = (TIMED, 1) if is_warm else (self.warm_up, self.at_least)
        if num_steps < at_least or (num_steps < wanted and elapsed < self.seconds):
            return
        _wait_for(pl_module.device)
        now = time.monotonic()
        if is_warm:
            self.per_step = (now - self.mark) / num_steps
            trainer.should_stop = True
        else:
            self.first_steps, self.warming_up, self.mark = num_steps, now - self.mark, now

    def on_validation_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        """Begin to measure."""
        _wait_for(pl_module.device)
        self.mark = time.monotonic()

    def on_validation_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        """Measure; the last batch counts, as the first is slower."""
        _wait_for(pl_module.device)
        self.per_validation_batch = time.monotonic() - self.mark


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
