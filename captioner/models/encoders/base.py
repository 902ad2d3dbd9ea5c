"""What an encoder is: images or sentences in, a memory out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable

from torch import Tensor, nn

from captioner.types import Memory


class Encoder(nn.Module, ABC):
    """Turns images, or sentences, into annotation vectors.

    Attributes:
        feature_dim: D, the size of an annotation vector.
        frozen: whether nothing in it is trained, so that its memories may be cached.
    """

    feature_dim: int

    @property
    def frozen(self) -> bool:
        """Whether no parameter is trained."""
        return not any(parameter.requires_grad for parameter in self.parameters())

    def pretrained(self) -> Iterable[nn.Parameter]:
        """The parameters that come trained, and are to be changed with care; none, unless a subclass says otherwise."""
        return ()

    @abstractmethod
    def forward(self, source: Tensor) -> Memory:
        """Look at images, or read sentences.

        Args:
            source: of images (B, 3, S, S) uint8 pixels, as `ImageTransform` gives them; normalising is the encoder's
                work. Of sentences (B, S) int64 words, as `TextTransform` gives them, padded.

        Returns:
            The memory of B images or sentences, without keys.
        """
