"""Normalisers: from scores to weights that sum to 1. Softmax never gives a location nothing, the others may."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn


class Normaliser(nn.Module, ABC):
    """Turns scores (..., L) into weights: none negative, each row's sum 1, in float32 at least."""

    def __init__(self) -> None:
        super().__init__()

    @abstractmethod
    def forward(self, scores: Tensor) -> Tensor:
        """Normalise along the last dimension; a score of -inf gets 0, and at least one of a row is finite."""


class Softmax(Normaliser):
    """exp(e_i) / sum_j exp(e_j)."""

    def forward(self, scores: Tensor) -> Tensor:
        """See `Normaliser.forward`."""
        return scores.softmax(dim=-1, dtype=_precise(scores))


class Sparsemax(Normaliser):
    """max(e_i - tau, 0), with the one tau for which the sum is 1 (Martins and Astudillo 2016, arXiv 1602.02068).

    It is the point of the simplex that is nearest to the scores: those far below the largest get exactly 0.
    """

    def forward(self, scores: Tensor) -> Tensor:
        """See `Normaliser.forward`."""
        import entmax

        return entmax.sparsemax(scores.to(_precise(scores)), dim=-1)


class Entmax15(Normaliser):
    """max(e_i / 2 - tau, 0)^2, with the one tau for which the sum is 1 (Peters et al. 2019, arXiv 1905.05702).

    It lies between the two others: alpha-entmax with alpha = 1.5, where softmax is 1 and sparsemax 2.
    """

    def forward(self, scores: Tensor) -> Tensor:
        """See `Normaliser.forward`."""
        import entmax

        return entmax.entmax15(scores.to(_precise(scores)), dim=-1)


def _precise(scores: Tensor) -> torch.dtype:
    """The number format to normalise in: in bfloat16 the rows of entmax are off by several percent."""
    return torch.promote_types(scores.dtype, torch.float32)
