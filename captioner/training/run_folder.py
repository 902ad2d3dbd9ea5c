"""A run's folder: held by one training, with its config; and what came of it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytorch_lightning as pl
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from pytorch_lightning.cli import SaveConfigCallback

from captioner import files
from captioner.files import LockedError, write_whole
from captioner.training.resume import ExactResume

CONFIG = "config.yaml"


def checkpoint_folder(run_dir: str) -> str:
    """Where a run's checkpoints lie."""
    return str(Path(run_dir) / "checkpoints")


class ConfigOfRun(SaveConfigCallback):
    """Keeps a training's config in its folder, once a run that is resumed is known to go on from there.

    Lightning's also replaces it when a run is validated, and when a resume is refused.
    """

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Not yet."""

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the config."""
        if trainer.is_global_zero:
            text = self.parser.dump(self.config, skip_none=False)
            write_whole(Path(self.config.run_dir) / CONFIG, text)


@contextmanager
def held(run_dir: str) -> Iterator[None]:
    """Hold a run's folder while it is written to.

    Raises:
        ValueError: another training holds it.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(files.held(Path(run_dir) / CONFIG))
        except LockedError as error:
            raise ValueError(f"{run_dir}: another training is writing to it; choose another --run_dir") from error
        yield


def require_watchable(trainer: pl.Trainer, validates: Sequence[str]) -> None:
    """See that the metrics that choose the best checkpoint and stop the training will be logged.

    Raises:
        ValueError: it is not logged, or nothing is validated.
    """
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if not isinstance(callback, (ModelCheckpoint, EarlyStopping)) or callback.monitor is None:
            continue
        name, monitor = type(callback).__name__, callback.monitor
        if not monitor.startswith("train/") and monitor not in validates:
            raise ValueError(f"{name} watches {monitor!r}, which is not logged; choose one of {', '.join(validates)}")
        if not monitor.startswith("train/") and trainer.limit_val_batches == 0:
            raise ValueError(
                f"{name} watches {monitor}, and trainer.limit_val_batches is 0: nothing is validated; let it watch the "
                "training by --best.monitor train/loss --best.mode min --best.filename best-{epoch:02d} "
                "--stopping.monitor train/loss --stopping.mode min"
            )


def what_came_of_it(trainer: pl.Trainer, reads_text: bool) -> str:
    """The best checkpoint of a training, and what to do with it."""
    best = trainer.checkpoint_callback
    path, lead = f"{checkpoint_folder(trainer.default_root_dir)}/last.ckpt", "the weights are in"
    if isinstance(best, ModelCheckpoint) and best.best_model_path:
        score = None if best.best_model_score is None else float(best.best_model_score)
        if score == 0 and best.mode == "max":
            lead = f"no {best.monitor} was above 0 yet; the last weights are in"
        else:
            path = best.best_model_path
            lead = "the best checkpoint is" if score is None else f"the best checkpoint ({best.monitor} {score:.2f}) is"
    path = os.path.relpath(path) if Path(path).is_relative_to(Path.cwd()) else path
    photo = '"A SENTENCE" --text' if reads_text else "PHOTO.jpg"
    lines = [
        f"captioner: {lead} {path}",
        f"  caption with it:  captioner caption {photo} --model {path}",
        f"  one file of it:   captioner export {path} --output model.safetensors",
    ]
    resume = next((each for each in trainer.checkpoint_callbacks if isinstance(each, ExactResume)), None)
    if resume is not None and not resume.has_trained:
        number = trainer.max_epochs
        lines.insert(0, f"captioner: there was nothing left to train: the run has had its {number} epochs (max_epochs)")
    return "\n".join(lines)
