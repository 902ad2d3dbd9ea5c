"""What an encoder is: pixels in, a memory out."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from captioner.types import Memory


class Encoder(nn.Module, ABC):
    """Turns images into annotation vectors.

    Attributes:
        feature_dim: D, the size of an annotation vector.
        frozen: whether nothing in it is trained, so that its memories may be cached.
    """

    feature_dim: int

    @property
    def frozen(self) -> bool:
        """Whether no parameter is trained."""
        return not any(parameter.requires_grad for parameter in self.parameters())

    @abstractmethod
    def forward(self, pixels: Tensor) -> Memory:
        """Look at images.

        Args:
            pixels: (B, 3, S, S) uint8, as `ImageTransform` gives them; normalising is the encoder's work.

        Returns:
            The memory of B images, without keys.
        """
