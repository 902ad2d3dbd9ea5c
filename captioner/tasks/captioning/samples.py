"""A callback that shows, in TensorBoard, what the model says of a few validation photos and where it looks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytorch_lightning as pl
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.utilities.rank_zero import rank_zero_warn

from captioner.data.images import open_image
from captioner.heatmaps import figure
from captioner.predictors import Captioner
from captioner.tasks.captioning.photos import CaptionData
from captioner.tasks.captioning.task import CaptioningTask
from captioner.types import Batch, CaptionedImage, PackedImage
from captioner.types.limits import require_sizes


class SampleCaptions(pl.Callback):
    """Logs captions with their maps after every validation.

    Args:
        num_samples: how many validation photos, the first ones of the first process; 0 for none.

    Raises:
        ValueError: it is no such number.
    """

    def __init__(self, num_samples: int = 4) -> None:
        require_sizes(least=0, num_samples=num_samples)
        self.num_samples = num_samples

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say where pictures would go."""
        if self.num_samples and not trainer.fast_dev_run and not _tensorboards(trainer):  # type: ignore[attr-defined]
            names = ", ".join(type(logger).__name__ for logger in trainer.loggers) or "none"
            rank_zero_warn(
                f"sample captions are shown in TensorBoard alone, and the logger is {names}: there will be none (add "
                "pytorch_lightning.loggers.TensorBoardLogger to trainer.logger, or set samples.num_samples to 0)"
            )

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Caption the first photos as a user would; now, while averaged weights are in place."""
        assert isinstance(pl_module, CaptioningTask)
        loggers = _tensorboards(trainer)
        if batch_idx or trainer.sanity_checking or not loggers:
            return
        if not trainer.is_global_zero:
            return  # what it logs is not written
        data = trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(data, CaptionData):
            return  # no photos
        captioner = Captioner(pl_module.bundle(), device=str(pl_module.device), regions=data.regions)
        images = [item for item in batch.items if isinstance(item, CaptionedImage)]
        photos = [item for item in images if isinstance(item.path, PackedImage) or item.path.is_file()]
        for number, item in enumerate(photos[: self.num_samples]):
            (caption,) = captioner.caption(item.path, pl_module.search)
            for logger in loggers:
                logger.experiment.add_text(f"caption {number}", caption.text, trainer.global_step)
            for part, maps in enumerate(caption.looks):
                page = np.asarray(figure(open_image(item.path), maps, caption.text))
                name = f"sample {number}" if part == 0 else f"sample {number}, part {part}"
                for logger in loggers:
                    logger.experiment.add_image(name, page, trainer.global_step, dataformats="HWC")


def _tensorboards(trainer: pl.Trainer) -> list[TensorBoardLogger]:
    return [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
