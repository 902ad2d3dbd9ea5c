"""What trainings share: sums over all processes, optimiser, schedule, what a checkpoint holds."""

from __future__ import annotations

import copy
import math
import os
import shutil
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import pytorch_lightning as pl
import torch.distributed
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from captioner.checkpoint import Bundle, describe
from captioner.losses import CaptionLoss, LossSums
from captioner.models import CaptionModel
from captioner.training.schedules import Schedule
from captioner.types import Batch

COMPILERS = (os.environ.get("CXX", "c++"), "g++", "clang++", "cl")
"""C++ compilers, one of which torch's compiler needs."""

Twin = TypeVar("Twin", bound="Task")


class Task(pl.LightningModule, ABC):
    """The training of a model with an encoder and a decoder; validation is the subclass's.

    Subclasses give `add_up`, `means` and `bundle`. `train/loss` is logged, and what `means` gives, of all processes.

    Args:
        model: what is trained.
        loss: what is minimised.
        optimizer: makes the optimiser from parameters; its learning rate is the decoder's.
        encoder_lr: the fine-tuned encoder's learning rate; the decoder's if it is None.
        schedule: how learning rates move.
        compile: have torch compile what the decoder runs at every word, see `RecurrentDecoder.compile`; where there is
            no C++ compiler a warning says so, and nothing is compiled.
    """

    def __init__(
        self,
        model: CaptionModel,
        loss: CaptionLoss,
        optimizer: Callable[[Iterable], Optimizer],
        encoder_lr: float | None,
        schedule: Schedule,
        compile: bool,
    ) -> None:
        super().__init__()
        self.model = model
        self.loss = loss
        self.optimizer = optimizer
        self.encoder_lr = encoder_lr
        self.schedule = schedule
        self.compiles = compile
        self.whole: LossSums | None = None  # all processes' batches since the last optimiser step

    @abstractmethod
    def add_up(self, batch: Batch) -> LossSums:
        """The loss of a batch of this process, as sums."""

    @abstractmethod
    def means(self, whole: LossSums) -> Mapping[str, Tensor]:
        """What is logged beside the loss, by name, of the sums of all processes."""

    @abstractmethod
    def bundle(self) -> Bundle:
        """The model with what belongs to it."""

    def on_fit_start(self) -> None:
        """See that the model can be described, now rather than at the first checkpoint; compile the decoder."""
        describe(self.bundle())
        if self.compiles and not any(map(shutil.which, COMPILERS)):
            warnings.warn(f"nothing is compiled: no C++ compiler ({', '.join(COMPILERS)}) is installed", stacklevel=2)
        elif self.compiles:
            self.model.decoder.compile(dynamic=True)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The batch's summed loss; `on_before_optimizer_step` divides the gradients by the global count."""
        sums = self.add_up(batch)
        vector = sums.vector()
        if self.trainer.world_size > 1:
            torch.distributed.all_reduce(vector)  # not the trainer's `reduce`, for which the host waits
        whole = sums.from_vector(vector)
        self.whole = whole if self.whole is None else whole.from_vector(self.whole.vector() + vector)
        means = {f"train/{name}": mean for name, mean in self.means(whole).items()}
        self.log("train/loss", whole.total / whole.count, prog_bar=True, batch_size=len(batch.tokens))
        self.log_dict(means, batch_size=len(batch.tokens))
        return sums.share_of(whole)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Turn gradients of sums into those of the mean over all processes and accumulated batches.

        Lightning has divided each batch's loss by the number of accumulated batches, and DDP has averaged over
        processes. Gradients are clipped after this.
        """
        assert self.whole is not None
        scale = self.trainer.accumulate_grad_batches * self.trainer.world_size / self.whole.count
        for parameter in self.model.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(scale)
        self.loss.learn(self.whole)
        self.whole = None

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """One group for the decoder and one for the part of the encoder that is fine-tuned."""
        if not math.isfinite(self.trainer.estimated_stepping_batches):
            raise ValueError("a schedule needs an end: set the trainer's max_epochs")
        groups: list[dict] = [{"params": list(self.model.decoder.parameters())}]
        fine_tuned = [parameter for parameter in self.model.encoder.parameters() if parameter.requires_grad]
        if fine_tuned:
            groups.append({"params": fine_tuned})
            if self.encoder_lr is not None:
                groups[-1]["lr"] = self.encoder_lr
        optimizer = self.optimizer(groups)
        total_steps = int(self.trainer.estimated_stepping_batches)
        steps_per_epoch = max(1, total_steps // max(1, self.trainer.max_epochs or 1))
        scheduler = LambdaLR(optimizer, lambda step: self.schedule.factor(step, total_steps, steps_per_epoch))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        """Keep, beside the weights, all that is needed to use the model: see `captioner.checkpoint`."""
        checkpoint["captioner"] = describe(self.bundle())

    def __deepcopy__(self: Twin, memo: dict[int, Any]) -> Twin:
        """A copy with weights of its own; it shares the optimiser's factory.

        One that was made from a config holds the parser, and through it the trainer with its processes and data.
        """
        memo[id(self.optimizer)] = self.optimizer
        twin = type(self).__new__(type(self))
        memo[id(self)] = twin
        twin.__setstate__(copy.deepcopy(self.__getstate__(), memo))
        return twin
