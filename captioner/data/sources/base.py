"""What a source of batches is."""

from __future__ import annotations

from typing import Protocol, TypeVar

from torch import Tensor

from captioner.types import Item, Memory

ItemOfKind = TypeVar("ItemOfKind", bound=Item, contravariant=True)

Loaded = TypeVar("Loaded")


class Source(Protocol[ItemOfKind, Loaded]):
    """Where what a model looks at comes from: image files, features that were computed before, sentences."""

    def load(self, item: ItemOfKind, epoch: int, index: int) -> Loaded:
        """One image's pixels or features, or one sentence's ids.

        Raises:
            ImageError: the image cannot be read, or has no features.
            TextError: the sentence has no words.
        """

    def stack(self, loaded: list[Loaded]) -> Tensor | Memory:
        """What a batch of them is to the model."""
