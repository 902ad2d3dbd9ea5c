"""Several encoders that look at the same pixels, their memories one after the other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import chain
from typing import cast

import torch
from torch import Tensor, nn

from captioner.models.encoders.base import Encoder
from captioner.types import Memory
from captioner.types.limits import require_sizes


class JointEncoder(Encoder):
    """Several memories at once: a grid and regions, say, or the grids of two networks.

    Each encoder's annotation vectors are projected to a common size, W_n a_i + b_n + e_n; the learnt e_n marks the
    encoder that they come from. As these are trained the whole cannot be cached; the encoders stay as they are,
    frozen or not.

    Args:
        encoders: take the same pixels.
        feature_dim: D, the common size.

    Raises:
        ValueError: there are no encoders, or an impossible size.
    """

    def __init__(self, encoders: list[Encoder], feature_dim: int = 512) -> None:
        super().__init__()
        require_sizes(feature_dim=feature_dim)
        if not encoders:
            raise ValueError("a JointEncoder needs at least one encoder")
        self.encoders = cast("Sequence[Encoder]", nn.ModuleList(encoders))
        self.feature_dim = feature_dim
        self.projections = nn.ModuleList(nn.Linear(encoder.feature_dim, feature_dim) for encoder in encoders)
        self.marks = nn.Parameter(torch.randn(len(encoders), feature_dim) * feature_dim**-0.5)

    def pretrained(self) -> Iterable[nn.Parameter]:
        """See `Encoder.pretrained`: of the encoders; projections and marks are new."""
        return chain.from_iterable(encoder.pretrained() for encoder in self.encoders)

    def forward(self, pixels: Tensor) -> Memory:
        """See `Encoder.forward`; the memory has the encoders' segments, in their order."""
        memories = [encoder(pixels) for encoder in self.encoders]
        return Memory.concatenate(self._marked(memories))

    def _marked(self, memories: Sequence[Memory]) -> list[Memory]:
        """The memories in the common size, (B, L, D) each."""
        return [
            replace(memory, features=project(memory.features.to(mark.dtype)) + mark)
            for memory, project, mark in zip(memories, self.projections, self.marks, strict=True)
        ]
