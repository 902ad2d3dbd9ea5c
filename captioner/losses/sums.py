"""Sums with the numbers they are to be divided by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor


class Mean(NamedTuple):
    """A mean that is not divided yet: scalars, detached."""

    total: Tensor
    number: Tensor

    @property
    def value(self) -> Tensor:
        """The mean; 0 of nothing."""
        return self.total / self.number.clamp(min=1)


@dataclass(frozen=True)
class LossSums:
    """A batch's loss before division, likelihood / count + penalty / captions.

    Attributes:
        likelihood: scalar, the sum of what is a mean over `count`: the words' negative log-likelihood, with label
            smoothing, and whatever else a loss adds to it.
        count: scalar, the words or captions that it is to be divided by, over all processes and accumulated batches.
        penalty: scalar, the sum over captions of the weighted doubly stochastic term.
        captions: scalar, the number of captions that have words.
        nll: scalar, the sum of the words' negative log-likelihood, without label smoothing (detached).
        words: scalar, the number of words.
        doubly_stochastic: scalar, the sum over captions of the unweighted term (detached).
        logs: means by name that a loss wants to be seen besides.
    """

    likelihood: Tensor
    count: Tensor
    penalty: Tensor
    captions: Tensor
    nll: Tensor
    words: Tensor
    doubly_stochastic: Tensor
    logs: Mapping[str, Mean] = field(default_factory=dict)

    @property
    def total(self) -> Tensor:
        """The sum to minimise, of this batch alone; divided by `count` it is the loss."""
        return self.share_of(self)

    def share_of(self, whole: LossSums) -> Tensor:
        """What this batch adds to the total of a larger one.

        A mean over captions in a loss that is divided by words is weighted by words per caption: those of `whole`.

        Args:
            whole: the sums of the batches of all processes.
        """
        return self.likelihood + self.penalty * (whole.count / whole.captions.clamp(min=1))

    def vector(self) -> Tensor:
        """(N,) all sums in a row, detached, to be added up over batches and processes."""
        sums = [self.likelihood, self.count, self.penalty, self.captions, self.nll, self.words, self.doubly_stochastic]
        for mean in self.logs.values():
            sums += mean
        return torch.stack([value.detach().to(self.likelihood) for value in sums])

    def from_vector(self, vector: Tensor) -> LossSums:
        """The sums of such a row, with the logs' names of this batch."""
        likelihood, count, penalty, captions, nll, words, term, *of_logs = vector.unbind()
        logs = dict(zip(self.logs, map(Mean, of_logs[::2], of_logs[1::2]), strict=True))
        return LossSums(likelihood, count, penalty, captions, nll, words, term, logs)
