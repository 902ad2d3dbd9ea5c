"""How the learning rate moves: factors of the step, each a small class that a config names."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod


class Schedule(ABC):
    """A factor on every learning rate, by optimiser step."""

    @abstractmethod
    def factor(self, step: int, total_steps: int, steps_per_epoch: int) -> float:
        """The factor at a step, of a training of so many steps."""


class Constant(Schedule):
    """The learning rate as it is, as the paper trains."""

    def factor(self, step: int, total_steps: int, steps_per_epoch: int) -> float:
        """See `Schedule.factor`."""
        return 1.0


class EpochDecay(Schedule):
    """One factor per epoch, such as 0.8 every 3 epochs.

    Args:
        gamma: the factor.
        every: epochs between two falls.
    """

    def __init__(self, gamma: float = 0.9, every: int = 1) -> None:
        self.gamma = gamma
        self.every = every

    def factor(self, step: int, total_steps: int, steps_per_epoch: int) -> float:
        """See `Schedule.factor`."""
        return self.gamma ** (step // steps_per_epoch // self.every)


class WarmupCosine(Schedule):
    """A linear rise, then half a cosine down to `final` (Loshchilov and Hutter 2017, arXiv 1608.03983).

    Args:
        warmup_steps: optimiser steps of the rise.
        final: the factor at the end of training.
    """

    def __init__(self, warmup_steps: int = 200, final: float = 0.0) -> None:
        self.warmup_steps = warmup_steps
        self.final = final

    def factor(self, step: int, total_steps: int, steps_per_epoch: int) -> float:
        """See `Schedule.factor`."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        progress = (step - self.warmup_steps) / max(1, total_steps - self.warmup_steps)
        cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
        return self.final + (1 - self.final) * cosine
