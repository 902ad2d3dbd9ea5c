"""The contract page: what the rooms of this package hand to one another. Read it first.

Names of sizes, here and everywhere: B images, K sequences per image, L locations, D feature size,
T words, V vocabulary, H hidden size, A attention size. What moves word by word is (B, K, ...), what
belongs to the image is (B, L, ...), and nothing of the image is ever copied per sequence.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:  # keeps `import captioner` and the command line's --help free of heavy imports
    import numpy as np
    import torch
    from torch import Tensor

State = dict[str, "Tensor"]
"""What a decoder carries from word to word; every tensor is (B, K, ...)."""

Step = Callable[["Tensor", State], tuple["Tensor", State]]
"""One word further: tokens (B, K) and a state to logits (B, K, V) and the next state."""


@dataclass(frozen=True)
class Memory:
    """What a decoder looks at: L annotation vectors for each of B images.

    Attributes:
        features: (B, L, D) annotation vectors.
        mask: (B, L) bool, True where a location is real; at least one per image is.
        grid: (h, w) with h * w = L when the locations are the cells of a grid, row by row.
        keys: (B, L, A) projected annotation vectors, once a decoder has prepared the memory.
    """

    features: Tensor
    mask: Tensor
    grid: tuple[int, int] | None = None
    keys: Tensor | None = None

    @classmethod
    def from_grid(cls, grid: Tensor) -> Memory:
        """A memory of all cells of (B, D, h, w) feature maps."""
        import torch

        features = grid.flatten(2).transpose(1, 2)  # (B, L, D)
        mask = torch.ones(features.shape[:2], dtype=torch.bool, device=grid.device)
        return cls(features, mask, grid=(grid.shape[2], grid.shape[3]))

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Memory:
        """The same memory on another device."""
        return replace(
            self,
            features=self.features.to(device, non_blocking=non_blocking),
            mask=self.mask.to(device, non_blocking=non_blocking),
            keys=None if self.keys is None else self.keys.to(device, non_blocking=non_blocking),
        )

    def first(self, num_images: int) -> Memory:
        """The memory of the first images alone (views, no copies)."""
        if num_images == len(self.features):
            return self
        keys = None if self.keys is None else self.keys[:num_images]
        return replace(self, features=self.features[:num_images], mask=self.mask[:num_images], keys=keys)


class Attended(NamedTuple):
    """What one look at the memory gives.

    Attributes:
        context: (B, K, D) weighted mean of the annotation vectors.
        alpha: (B, K, L) weights; rows sum to 1, padded locations get 0.
    """

    context: Tensor
    alpha: Tensor


class TeacherForced(NamedTuple):
    """A decoder's answer to given captions, N real words in all (row by row of `mask`).

    Attributes:
        logits: (N, V) for the real words alone.
        mask: (B, K, T) bool, True where a word is real; `logits` are in the order of `mask.nonzero()`.
        alpha: (B, K, T, L) attention weights, 0 where a word is not real; None for a decoder that
            does not attend.
    """

    logits: Tensor
    mask: Tensor
    alpha: Tensor | None


class Hypothesis(NamedTuple):
    """One caption that a search found.

    Attributes:
        tokens: word ids, without the begin and end words.
        log_prob: the model's natural log-probability of these words and, when `finished`, the end word.
        score: what the search ranked by (log_prob under its length normalisation).
        finished: whether the end word was reached.
    """

    tokens: list[int]
    log_prob: float
    score: float
    finished: bool


@dataclass(frozen=True)
class CaptionedImage:
    """One image of a data set, with its reference captions.

    Attributes:
        image_id: COCO's integer id, or the file's name where a data set has no ids of its own.
        path: where the image file lies.
        captions: reference captions as written, any number (none for a test set without captions).
    """

    image_id: int | str
    path: Path
    captions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Batch:
    """B images with K captions each; images that have fewer captions have rows of length 0.

    Attributes:
        source: (B, 3, S, S) uint8 pixels, or the memory that a feature cache holds for the images.
        tokens: (B, K, T + 1) int64: begin word, words, end word, then padding.
        lengths: (B, K) int64: the words to predict, end word included; 0 for a missing caption.
        items: the B images as their reader gave them.
    """

    source: Tensor | Memory
    tokens: Tensor
    lengths: Tensor
    items: list[CaptionedImage] = field(default_factory=list)


@dataclass(frozen=True)
class AttentionMaps:
    """Where a model looked in one photo, word by word.

    Attributes:
        words: T words, the end word left out.
        alpha: (T, h, w) float32 weights over the grid's cells.
        image_size: (width, height) of the upright photo in pixels.
        grid_box: (x0, y0, x1, y1) the rectangle, in pixels of the upright photo, that the grid covers;
            it reaches past the photo's edges where the photo was padded.
    """

    words: tuple[str, ...]
    alpha: np.ndarray
    image_size: tuple[int, int]
    grid_box: tuple[float, float, float, float]
