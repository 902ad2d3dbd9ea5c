"""What a decoder looks at."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    Change = Callable[[Tensor], Tensor]


class Kind(str, Enum):
    """What the locations of a memory are."""

    GRID = "grid"  # the cells of a CNN's last feature map
    REGIONS = "regions"  # boxes that a detector found
    WORDS = "words"  # the words of a sentence, in order


@dataclass(frozen=True)
class Segment:
    """A run of a memory's locations that are of one kind.

    Attributes:
        kind: what they are.
        length: how many, padded ones included.
        grid: (h, w) with h * w = length, row by row, for a grid.
        boxes: (B, length, 4) for regions: x0, y0, x1, y1 as fractions of the rectangle that the encoder saw.
        scores: (B, length) for regions: how sure the detector was of each, 0 to 1; NaN where that is not known.
        times: (B, length, 2) for what has a place in time: where each begins and ends, in seconds.
    """

    kind: Kind
    length: int
    grid: tuple[int, int] | None = None
    boxes: Tensor | None = None
    scores: Tensor | None = None
    times: Tensor | None = None

    def map(self, change: Change) -> Segment:
        """The same segment with every tensor of it changed."""
        return replace(
            self, boxes=_maybe(change, self.boxes), scores=_maybe(change, self.scores), times=_maybe(change, self.times)
        )


@dataclass(frozen=True)
class Memory:
    """What a decoder looks at: L annotation vectors for each of B images (or sentences).

    Attributes:
        features: (B, L, D) annotation vectors.
        mask: (B, L) bool, True where a location is real; at least one per image is.
        segments: what the locations are, in order; their lengths add up to L.
        keys: (B, L, A) what a query is compared with, once a decoder has prepared the memory; (B, N, L, A / N) for
            attention of N heads.
        values: likewise, what is averaged in place of the annotation vectors, for attention that projects these too.
        notes: (B, ...) what else a decoder or its attention made of each image, once, for itself, by name.
    """

    features: Tensor
    mask: Tensor
    segments: tuple[Segment, ...]
    keys: Tensor | None = None
    values: Tensor | None = None
    notes: Mapping[str, Tensor] = field(default_factory=dict)

    @classmethod
    def from_grid(cls, grid: Tensor) -> Memory:
        """A memory of all cells of (B, D, h, w) feature maps."""
        import torch

        features = grid.flatten(2).transpose(1, 2)  # (B, L, D)
        mask = torch.ones(features.shape[:2], dtype=torch.bool, device=grid.device)
        height, width = grid.shape[2:]
        return cls(features, mask, (Segment(Kind.GRID, height * width, grid=(height, width)),))

    @classmethod
    def from_regions(cls, features: Tensor, mask: Tensor, boxes: Tensor, scores: Tensor | None = None) -> Memory:
        """A memory of (B, R, D) regions, see `Segment` for boxes and scores; padded ones are not in `mask` (B, R)."""
        return cls(features, mask, (Segment(Kind.REGIONS, features.shape[1], boxes=boxes, scores=scores),))

    @classmethod
    def from_words(cls, features: Tensor, mask: Tensor) -> Memory:
        """A memory of (B, S, D) words; padded ones are not in `mask` (B, S)."""
        return cls(features, mask, (Segment(Kind.WORDS, features.shape[1]),))

    @classmethod
    def concatenate(cls, memories: Sequence[Memory]) -> Memory:
        """Several memories of the same images as one, one after another; none of them prepared, all of one D."""
        import torch

        return cls(
            torch.cat([memory.features for memory in memories], dim=1),
            torch.cat([memory.mask for memory in memories], dim=1),
            tuple(segment for memory in memories for segment in memory.segments),
        )

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The kinds of the segments."""
        return tuple(segment.kind for segment in self.segments)

    @property
    def grid(self) -> tuple[int, int] | None:
        """(h, w) where the memory is one grid and nothing else."""
        return self.segments[0].grid if len(self.segments) == 1 else None

    def note(self, name: str) -> Tensor:
        """A note that preparing the memory has made.

        Raises:
            ValueError: the memory was not prepared.
        """
        if name not in self.notes:
            raise ValueError(f"the memory has no note {name!r}: call the decoder's prepare(memory) first")
        return self.notes[name]

    def with_note(self, name: str, value: Tensor) -> Memory:
        """The same memory with one note more."""
        return replace(self, notes={**self.notes, name: value})

    def map(self, change: Change) -> Memory:
        """The same memory with every tensor of it changed; all have a row per image."""
        return replace(
            self,
            features=change(self.features),
            mask=change(self.mask),
            segments=tuple(segment.map(change) for segment in self.segments),
            keys=_maybe(change, self.keys),
            values=_maybe(change, self.values),
            notes={name: change(note) for name, note in self.notes.items()},
        )

    def tensors(self) -> list[Tensor]:
        """All its tensors but those of its segments."""
        own = (self.features, self.mask, self.keys, self.values, *self.notes.values())
        return [tensor for tensor in own if tensor is not None]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Memory:
        """The same memory on another device."""
        return self.map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def first(self, num_images: int) -> Memory:
        """The memory of the first images alone (views, no copies)."""
        return self if num_images == len(self.features) else self.map(lambda tensor: tensor[:num_images])


def _maybe(change: Change, tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else change(tensor)
