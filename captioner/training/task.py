"""What trainings share: sums over all processes, optimiser, schedule, what a checkpoint holds."""

from __future__ import annotations

import copy
import math
import os
import shutil
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, TypeVar

import pytorch_lightning as pl
import torch.distributed
from pytorch_lightning.plugins import MixedPrecision
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from captioner.checkpoint import Bundle, CheckpointError, describe, require_resumable
from captioner.losses import CaptionLoss, LossSums
from captioner.models import CaptionModel, ParameterGroup
from captioner.training.finite import FiniteWatch
from captioner.training.schedules import Schedule
from captioner.types import Batch

COMPILERS = (os.environ.get("CXX", "c++"), "g++", "clang++", "cl")
"""C++ compilers, one of which torch's compiler needs."""

OPTIMIZER = "captioner_optimizer"  # in a checkpoint: its class

Twin = TypeVar("Twin", bound="Task")


class Task(pl.LightningModule, ABC):
    """The training of a model with an encoder and a decoder; validation is the subclass's.

    Subclasses give `add_up` and `bundle`. `train/loss` is logged, and what the loss logs, of all processes. A loss, a
    gradient or a weight that is not finite stops the training before anything is saved of it, see `FiniteWatch`.

    Args:
        model: what is trained.
        loss: what is minimised.
        optimizer: makes the optimiser from parameter groups. Its learning rate is for new parameters, its weight decay
            for the matrices of layers alone, see `ParameterGroup`.
        encoder_lr: the learning rate of pretrained parameters; that of the others if it is None.
        schedule: how learning rates move.
        compile: have torch compile what the decoder runs at every word, see `RecurrentDecoder.compile`; where there is
            no C++ compiler a warning says so, and nothing is compiled.
        cuda_graphs: on a GPU, launch the decoder's loop over words as one, see `Decoder.use_cuda_graphs`.
    """

    validates: ClassVar[tuple[str, ...]] = ()
    """What validation logs."""

    def __init__(
        self,
        model: CaptionModel,
        loss: CaptionLoss,
        optimizer: Callable[[Iterable], Optimizer],
        encoder_lr: float | None,
        schedule: Schedule,
        compile: bool,
        cuda_graphs: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self.loss = loss
        self.optimizer = optimizer
        self.encoder_lr = encoder_lr
        self.schedule = schedule
        self.compiles = compile
        self.uses_cuda_graphs = cuda_graphs
        self.goes_on_undivided = False  # whether the run that is resumed had the groups of 0.1.0
        self.whole: LossSums | None = None  # all processes' batches since the last optimiser step
        self.watch = FiniteWatch()

    @abstractmethod
    def add_up(self, batch: Batch) -> LossSums:
        """The loss of a batch of this process, as sums."""

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
        if self.uses_cuda_graphs and self.device.type == "cuda":
            self.model.decoder.use_cuda_graphs()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The batch's summed loss; `on_before_optimizer_step` divides the gradients by the global count."""
        self.watch.saw(batch.items)
        sums = self.add_up(batch)
        vector = sums.vector()
        if self.trainer.world_size > 1:
            torch.distributed.all_reduce(vector)  # not the trainer's `reduce`, for which the host waits
        whole = sums.from_vector(vector)
        self.whole = whole if self.whole is None else whole.from_vector(self.whole.vector() + vector)
        means = {f"train/{name}": mean.value for name, mean in whole.logs.items()}
        self.log("train/loss", whole.mean, prog_bar=True, batch_size=len(batch.tokens))
        self.log_dict(means, batch_size=len(batch.tokens))
        return sums.share_of(whole)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Turn gradients of sums into those of the mean over all processes and accumulated batches.

        Lightning has divided each batch's loss by the number of accumulated batches, and DDP has averaged over
        processes. Gradients are clipped after this.

        Raises:
            NotFiniteError: the loss or a gradient is not finite.
        """
        assert self.whole is not None
        scale = self.trainer.accumulate_grad_batches * self.trainer.world_size / self.whole.count.clamp(min=1)
        gradients = [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
        torch._foreach_mul_(gradients, scale)  # one launch on a GPU
        where = f"optimiser step {self.trainer.global_step} (epoch {self.trainer.current_epoch})"
        self.watch.step(where, self.whole.vector(), gradients, scaled=self._scales_losses())
        self.loss.learn(self.whole)
        self.whole = None

    def _scales_losses(self) -> bool:
        """Whether losses are scaled, as float16 needs it."""
        precision = self.trainer.precision_plugin
        return isinstance(precision, MixedPrecision) and precision.scaler is not None

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """The model's parameter groups; the pretrained ones learn at `encoder_lr`, and not all are decayed."""
        if not math.isfinite(self.trainer.estimated_stepping_batches):
            raise ValueError("a schedule needs an end: set the trainer's max_epochs")
        optimizer = self.optimizer(self._groups())
        total_steps = int(self.trainer.estimated_stepping_batches)
        steps_per_epoch = max(1, total_steps // max(1, self.trainer.max_epochs or 1))
        scheduler = LambdaLR(optimizer, lambda step: self.schedule.factor(step, total_steps, steps_per_epoch))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _groups(self) -> list[dict[str, Any]]:
        """What an optimiser takes: parameters with what is their own of its options."""
        groups = self.model.parameter_groups()
        if self.goes_on_undivided:
            groups = _undivided(self.model)
        fine_tuned = not self.model.encoder.frozen
        if self.encoder_lr is not None and fine_tuned and not any(group.pretrained for group in groups):
            warnings.warn("encoder_lr is for pretrained parameters, and none is trained", stacklevel=2)
        made = []
        for group in groups:
            options: dict[str, Any] = {} if self.goes_on_undivided else {"name": group.name}
            if group.pretrained and self.encoder_lr is not None:
                options["lr"] = self.encoder_lr
            if not group.decayed:
                options["weight_decay"] = 0.0
            made.append({"params": group.parameters, **options})
        return made

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        """See that the run can go on from it; with the parameter groups of 0.1.0 where the run began with them.

        Raises:
            CheckpointError: it is not of this model, vocabulary or (when training goes on) transform and optimiser.
        """
        training = self._trainer is not None and self._trainer.state.fn == TrainerFn.FITTING
        require_resumable(checkpoint, self.bundle(), self.state_dict(), same_transform=training)
        if training:
            self._require_own_optimizer(checkpoint)
        states = checkpoint.get("optimizer_states") or [{"param_groups": []}]
        self.goes_on_undivided = any("name" not in group for group in states[0]["param_groups"])

    def _require_own_optimizer(self, checkpoint: dict) -> None:
        """See that a run's optimiser states are of this optimiser."""
        own = self.optimizer([nn.Parameter(torch.zeros(1))])
        name, before = type(own).__name__, checkpoint.get(OPTIMIZER)
        groups = [group for state in checkpoint.get("optimizer_states") or () for group in state["param_groups"]]
        options = {option for group in groups for option in group} - {"params", "name", "initial_lr"}
        if before not in (None, name) or not options <= own.defaults.keys():
            was = "" if before is None else f" ({before})"
            raise CheckpointError(
                f"the checkpoint's run had another optimizer{was} than {name}; resume with the run's own config.yaml, "
                "or start anew in another --run_dir (from these weights by --model.init_from)"
            )

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        """Keep, beside the weights, all that is needed to use the model: see `captioner.checkpoint`.

        Raises:
            NotFiniteError: a step since the last checkpoint, or a weight, is not finite; nothing is saved then.
        """
        state = checkpoint["state_dict"]
        self.watch.require({name: state[name] for name, _ in self.named_parameters() if name in state})
        checkpoint["captioner"] = describe(self.bundle())
        if checkpoint.get("optimizer_states"):
            checkpoint[OPTIMIZER] = type(self.trainer.optimizers[0]).__name__

    def __deepcopy__(self: Twin, memo: dict[int, Any]) -> Twin:
        """A copy with weights of its own; it shares the optimiser's factory.

        One that was made from a config holds the parser, and through it the trainer with its processes and data.
        """
        memo[id(self.optimizer)] = self.optimizer
        twin = type(self).__new__(type(self))
        memo[id(self)] = twin
        twin.__setstate__(copy.deepcopy(self.__getstate__(), memo))
        return twin


def _undivided(model: CaptionModel) -> list[ParameterGroup]:
    """The groups of 0.1.0: one of the decoder, all of it decayed, and one of what is trained of the encoder."""
    fine_tuned = [parameter for parameter in model.encoder.parameters() if parameter.requires_grad]
    decoder = ParameterGroup(list(model.decoder.parameters()), pretrained=False, decayed=True)
    return [decoder, ParameterGroup(fine_tuned, pretrained=True, decayed=True)] if fine_tuned else [decoder]
