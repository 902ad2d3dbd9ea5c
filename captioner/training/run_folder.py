"""A run's folder: held by one training, with its config; and what came of it."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytorch_lightning as pl
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from pytorch_lightning.cli import SaveConfigCallback

from captioner.files import LockedError, locked, write_whole


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
            write_whole(Path(self.config.run_dir) / self.config_filename, text)


@contextmanager
def held(run_dir: str) -> Iterator[None]:
    """Hold a run's folder while it is written to; where there are no locks (Windows, some file systems), just go on.

    Raises:
        ValueError: another training holds it.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(run_dir, name=".lock"))
        except LockedError as error:
            raise ValueError(f"{run_dir}: another training is writing to it; choose another --run_dir") from error
        except OSError as error:
            warnings.warn(f"{run_dir} cannot be locked, start one training in it only ({error})", stacklevel=2)
        yield


def require_watchable(trainer: pl.Trainer, validates: Sequence[str]) -> None:
    """See that what decides on the best checkpoint and on stopping will be there.

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
    if isinstance(best, ModelCheckpoint) and best.best_model_path:
        score = "" if best.best_model_score is None else f" ({best.monitor} {float(best.best_model_score):.2f})"
        path, lead = best.best_model_path, f"the best checkpoint{score} is"
    else:
        path, lead = f"{checkpoint_folder(trainer.default_root_dir)}/last.ckpt", "the weights are in"
    path = os.path.relpath(path) if Path(path).is_relative_to(Path.cwd()) else path
    photo = '"A SENTENCE" --text' if reads_text else "PHOTO.jpg"
    return (
        f"captioner: {lead} {path}\n"
        f"  caption with it:  captioner caption {photo} --model {path}\n"
        f"  one file of it:   captioner export {path} --output model.safetensors"
    )
