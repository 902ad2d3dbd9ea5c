"""What a decoder looks at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class Kind(str, Enum):
    """What the locations of a memory are."""

    GRID = "grid"  # the cells of a CNN's last feature map
    REGIONS = "regions"  # boxes that a detector found
    WORDS = "words"  # the words of a sentence, in order


@dataclass(frozen=True)
class Part:
    """A run of a memory's locations that are of one kind.

    Attributes:
        kind: what they are.
        length: how many, padded ones included.
        grid: (h, w) with h * w = length, row by row, for a grid.
        boxes: (B, length, 4) for regions: x0, y0, x1, y1 as fractions of the rectangle that the encoder saw.
        scores: (B, length) for regions: how sure the detector was of each, 0 to 1; NaN where that is not known.
    """

    kind: Kind
    length: int
    grid: tuple[int, int] | None = None
    boxes: Tensor | None = None
    scores: Tensor | None = None


@dataclass(frozen=True)
class Memory:
    """What a decoder looks at: L annotation vectors for each of B images (or sentences).

    Attributes:
        features: (B, L, D) annotation vectors.
        mask: (B, L) bool, True where a location is real; at least one per image is.
        parts: what the locations are, in order; their lengths add up to L.
        keys: (B, L, A) what a query is compared with, once a decoder has prepared the memory; (B, N, L, A / N) for
            attention of N heads.
        summary: (B, G) what a decoder that needs the whole image at every step made of it, once.
        values: likewise, what is averaged in place of the annotation vectors, for attention that projects these too.
        sampled: scalar bool, for hard attention: whether this pass samples its locations.
    """

    features: Tensor
    mask: Tensor
    parts: tuple[Part, ...]
    keys: Tensor | None = None
    summary: Tensor | None = None
    values: Tensor | None = None
    sampled: Tensor | None = None

    @classmethod
    def from_grid(cls, grid: Tensor) -> Memory:
        """A memory of all cells of (B, D, h, w) feature maps."""
        import torch

        features = grid.flatten(2).transpose(1, 2)  # (B, L, D)
        mask = torch.ones(features.shape[:2], dtype=torch.bool, device=grid.device)
        height, width = grid.shape[2:]
        return cls(features, mask, (Part(Kind.GRID, height * width, grid=(height, width)),))

    @classmethod
    def from_regions(cls, features: Tensor, mask: Tensor, boxes: Tensor, scores: Tensor | None = None) -> Memory:
        """A memory of (B, R, D) regions, see `Part` for boxes and scores; padded ones are not in `mask` (B, R)."""
        return cls(features, mask, (Part(Kind.REGIONS, features.shape[1], boxes=boxes, scores=scores),))

    @classmethod
    def from_words(cls, features: Tensor, mask: Tensor) -> Memory:
        """A memory of (B, S, D) words; padded ones are not in `mask` (B, S)."""
        return cls(features, mask, (Part(Kind.WORDS, features.shape[1]),))

    @classmethod
    def concatenate(cls, memories: Sequence[Memory]) -> Memory:
        """Several memories of the same images as one, part after part; none of them prepared, all of one D."""
        import torch

        return cls(
            torch.cat([memory.features for memory in memories], dim=1),
            torch.cat([memory.mask for memory in memories], dim=1),
            tuple(part for memory in memories for part in memory.parts),
        )

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The kinds of the parts."""
        return tuple(part.kind for part in self.parts)

    @property
    def grid(self) -> tuple[int, int] | None:
        """(h, w) where the memory is one grid and nothing else."""
        return self.parts[0].grid if len(self.parts) == 1 else None

    def map(self, change: Callable[[Tensor], Tensor]) -> Memory:
        """The same memory with every tensor of it changed that has a row per image."""

        def maybe(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else change(tensor)

        return replace(
            self,
            features=change(self.features),
            mask=change(self.mask),
            parts=tuple(replace(part, boxes=maybe(part.boxes), scores=maybe(part.scores)) for part in self.parts),
            keys=maybe(self.keys),
            summary=maybe(self.summary),
            values=maybe(self.values),
        )

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Memory:
        """The same memory on another device."""
        return self.map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def first(self, num_images: int) -> Memory:
        """The memory of the first images alone (views, no copies)."""
        return self if num_images == len(self.features) else self.map(lambda tensor: tensor[:num_images])
