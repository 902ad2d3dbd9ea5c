"""How the learning rate moves: factors of the step, each a small class that a config names."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

from captioner.types.limits import require_factors, require_sizes


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

    Raises:
        ValueError: a number that is not possible.
    """

    def __init__(self, gamma: float = 0.9, every: int = 1) -> None:
        require_factors(gamma=gamma)
        require_sizes(every=every)
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

    Raises:
        ValueError: a number that is not possible.
    """

    def __init__(self, warmup_steps: int = 200, final: float = 0.0) -> None:
        require_sizes(10**9, 0, warmup_steps=warmup_steps)
        require_factors(final=final)
        self.warmup_steps = warmup_steps
        self.final = final

    def factor(self, step: int, total_steps: int, steps_per_epoch: int) -> float:
        """See `Schedule.factor`."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        progress = (step - self.warmup_steps) / max(1, total_steps - self.warmup_steps)
        cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
        return self.final + (1 - self.final) * cosine
