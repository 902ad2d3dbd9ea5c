"""A callback that averages weights over training, for validation and for what is kept."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from captioner.types.limits import require_shares

WARMED_UP = "averaging_warms_up"  # in a checkpoint


class AveragedWeights(WeightAveraging):
    """The exponential moving average of all parameters takes their place in validation, in checkpoints and at the end.

    Unlike Lightning's `EMAWeightAveraging`, it leaves what is not trained as it is, bit for bit: that formula rounds
    even the average of equal numbers, and a frozen encoder whose weights have moved is not the one that a feature
    cache or a package holds. And the average lies where the model trains, where it is made by one operation for all
    parameters of a number format, for which nothing waits.

    Args:
        decay: the average's share of itself at every optimiser step, once it has warmed up. After n steps the share is
            (1 + n) / (10 + n) while that is less, so that an average of few steps is not one of the first weights.

    Raises:
        ValueError: the decay is not from 0 to below 1.
    """

    def __init__(self, decay: float = 0.998) -> None:
        require_shares(decay=decay)
        if decay == 1:
            raise ValueError("decay must be below 1: the average would stay what it began with")
        self.decay = decay
        self.warms_up = True
        super().__init__(use_buffers=False)  # the latest ones

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Say how the average was made."""
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        checkpoint[WARMED_UP] = self.warms_up

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Go on as the average was begun; in 0.1.0 it did not warm up."""
        super().on_load_checkpoint(trainer, pl_module, checkpoint)
        self.warms_up = checkpoint.get(WARMED_UP, False)
        if isinstance(self._average_model, Average):
            self._average_model.warms_up = self.warms_up

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Make the average, when a training begins; its device is not known yet."""
        if stage == "fit":
            self._average_model = Average(pl_module, self.decay)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Move the average to the model's device."""
        assert self._average_model is not None
        self._average_model.module.to(pl_module.device)


class Average(AveragedModel):
    """An average, whose counter stays in the host's memory."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__(model)
        self.decay = decay
        self.warms_up = True

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Take the weights of a step in."""
        averages: list[Tensor] = [*self.module.parameters()]
        weights: list[Tensor] = [*model.parameters()]
        if self.n_averaged == 0:
            torch._foreach_copy_(averages, weights)
        else:
            num_steps, decay = int(self.n_averaged), self.decay
            if self.warms_up:
                decay = min(decay, (1 + num_steps) / (10 + num_steps))
            torch._foreach_lerp_(averages, weights, 1 - decay)  # average + (1 - decay) (weight - average)
        for numbers in {buffer.dtype for buffer in model.buffers()}:
            torch._foreach_copy_(_of(numbers, self.module), _of(numbers, model))
        self.n_averaged += 1


def _of(numbers: torch.dtype, model: nn.Module) -> list[Tensor]:
    """The buffers of a number format."""
    return [buffer for buffer in model.buffers() if buffer.dtype == numbers]
