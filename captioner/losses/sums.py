"""Sums with the numbers they are to be divided by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor


class Mean(NamedTuple):
    """A mean that is not divided yet: scalars."""

    total: Tensor
    number: Tensor

    @property
    def value(self) -> Tensor:
        """The mean; 0 of nothing."""
        return self.total / self.number.clamp(min=1)


@dataclass(frozen=True)
class LossSums:
    """A batch's loss before division: the sum of its terms' means.

    Attributes:
        terms: what is minimised, by name; their totals carry gradients, their numbers count words, captions or whatever
            each is a mean over. The first one's number is what gradients are divided by at the end, over all processes
            and accumulated batches, so its mean is exact.
        logs: means by name to be seen, not minimised; detached.
    """

    terms: Mapping[str, Mean]
    logs: Mapping[str, Mean] = field(default_factory=dict)

    @property
    def count(self) -> Tensor:
        """The first term's number."""
        return next(iter(self.terms.values())).number

    @property
    def total(self) -> Tensor:
        """The sum to minimise, of this batch alone; divided by `count` it is the loss."""
        return self.share_of(self)

    @property
    def mean(self) -> Tensor:
        """The loss of this batch alone."""
        return self.total / self.count.clamp(min=1)

    def share_of(self, whole: LossSums) -> Tensor:
        """What this batch adds to the total of a larger one.

        All terms are divided by `count` in the end. A mean over something else (over captions, where `count` counts
        words) is therefore multiplied by the words that `whole` has for each caption.

        Args:
            whole: the sums of the batches of all processes.
        """
        (_, first), *others = self.terms.items()
        share = first.total
        for name, term in others:
            share = share + term.total * (whole.count / whole.terms[name].number.clamp(min=1))
        return share

    def vector(self) -> Tensor:
        """(N,) all sums and numbers in a row, detached, to be added up over batches and processes."""
        means = [*self.terms.values(), *self.logs.values()]
        like = means[0].total
        return torch.stack([value.detach().to(like) for mean in means for value in mean])

    def from_vector(self, vector: Tensor) -> LossSums:
        """The sums of such a row, with the names of this batch."""
        values = vector.unbind()
        means = list(map(Mean, values[::2], values[1::2]))
        split = len(self.terms)
        terms, logs = zip(self.terms, means[:split], strict=True), zip(self.logs, means[split:], strict=True)
        return LossSums(dict(terms), dict(logs))
