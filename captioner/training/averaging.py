"""A callback that averages weights over training, for validation and for what is kept."""

from __future__ import annotations

import torch
from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor


class AveragedWeights(WeightAveraging):
    """The exponential moving average of all parameters takes their place in validation, in checkpoints and at the end.

    Unlike Lightning's `EMAWeightAveraging`, it leaves what is not trained as it is, bit for bit: that formula rounds
    even the average of equal numbers, and a frozen encoder whose weights have moved is not the one that a feature
    cache or a package holds. All parameters of a kind are averaged in one launch of a GPU.

    Args:
        decay: the average's share of itself at every optimiser step.
    """

    def __init__(self, decay: float = 0.998) -> None:
        self.decay = decay
        super().__init__(use_buffers=False, multi_avg_fn=self._average)  # buffers: the latest ones

    def _average(self, averages: list[Tensor], weights: list[Tensor], num_averaged: Tensor) -> None:
        torch._foreach_lerp_(averages, weights, 1 - self.decay)  # average + (1 - decay) (weight - average)
