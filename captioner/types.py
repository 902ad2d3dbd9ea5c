"""The contract page: what the rooms of this package hand to one another. Read it first.

Names of sizes, here and everywhere: B images, K sequences per image, L locations, D feature size,
T words, V vocabulary, H hidden size, A attention size. What moves word by word is (B, K, ...), what
belongs to the image is (B, L, ...), and nothing of the image is ever copied per sequence.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:  # keeps `import captioner` and the command line's --help free of heavy imports
    import numpy as np
    import torch
    from torch import Tensor

State = dict[str, "Tensor"]
"""What a decoder carries from word to word; every tensor is (B, K, ...)."""

Step = Callable[["Tensor", State], tuple["Tensor", State]]
"""One word further: tokens (B, K) and a state to logits (B, K, V) and the next state."""


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


class Attended(NamedTuple):
    """What one look at the memory gives.

    Attributes:
        context: (B, K, D) weighted mean of the annotation vectors.
        alpha: (B, K, L) weights; rows sum to 1 unless the attention says otherwise, padded locations get 0. None where
            a decoder does not attend.
        extras: more to know, by name, all (B, K, ...): "heads" (B, K, N, L) of several heads, whose mean `alpha` is;
            "sentinel" (B, K), the weight of a sentinel, the rest of alpha's row; "sample_log_prob" and "entropy"
            (B, K) of hard attention.
    """

    context: Tensor
    alpha: Tensor | None
    extras: Mapping[str, Tensor] = MappingProxyType({})


class TeacherForced(NamedTuple):
    """A decoder's answer to given captions, N real words in all (row by row of `mask`).

    Attributes:
        logits: (N, V) for the real words alone.
        mask: (B, K, T) bool, True where a word is real; `logits` are in the order of `mask.nonzero()`.
        alpha: (B, K, T, L) attention weights, 0 where a word is not real; None for a decoder that
            does not attend.
        extras: (B, K, T, ...) what else attention gave, by name (see `Attended`), 0 where a word is not real.
        locations: (B, L) bool, True where a location is real.
        places: (N,) int64, where the real words lie in (B, K, T) when it is one row.
    """

    logits: Tensor
    mask: Tensor
    alpha: Tensor | None
    extras: Mapping[str, Tensor]
    locations: Tensor
    places: Tensor

    def of_words(self, values: Tensor) -> Tensor:
        """Those of (B, K, T) values that belong to real words, (N,), in the order of `logits`.

        Unlike `values[mask]` it does not wait for an accelerator to count them.
        """
        return values.flatten().index_select(0, self.places)


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


class PackedImage(ABC):
    """An image file that lies in a larger file, in the place of its path; `str` names it in results and errors."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Its file's name without folders, as of a `Path`."""

    @property
    def stem(self) -> str:
        """That name without its suffix."""
        return Path(self.name).stem

    @abstractmethod
    def read_bytes(self) -> bytes:
        """The image file, as it is stored.

        Raises:
            ImageError: it cannot be read.
        """


@dataclass(frozen=True)
class CaptionedImage:
    """One image of a data set, with its reference captions.

    Attributes:
        image_id: COCO's integer id, or the file's name where a data set has no ids of its own.
        path: where the image file lies; an image in a shard stands for itself.
        captions: reference captions as written, any number (none for a test set without captions).
    """

    image_id: int | str
    path: Path | PackedImage
    captions: tuple[str, ...] = ()

    @property
    def key(self) -> int | str:
        """What names it in results."""
        return self.image_id


@dataclass(frozen=True)
class TextPair:
    """One sentence of a parallel text, with what it is to become.

    Attributes:
        key: what names it in results: its number in the file, unless the file has names.
        text: the sentence to read, as written.
        captions: reference outputs as written, any number.
    """

    key: int | str
    text: str
    captions: tuple[str, ...] = ()


Item = CaptionedImage | TextPair
"""What a reader gives: `key` and `captions` are what training and scoring need of either."""


@dataclass(frozen=True)
class Batch:
    """B images (or sentences) with K captions each; those that have fewer captions have rows of length 0.

    Attributes:
        source: what the encoder takes, (B, 3, S, S) uint8 pixels or (B, S) int64 words of sentences; or memories that
            were computed before, of a feature cache or a file of regions.
        tokens: (B, K, T + 1) int64: begin word, words, end word, then padding.
        lengths: (B, K) int64: the words to predict, end word included; 0 for a missing caption. They stay in the host's
            memory, as the shape of the work depends on them.
        items: the B images or sentences as their reader gave them.
    """

    source: Tensor | Memory
    tokens: Tensor
    lengths: Tensor
    items: Sequence[Item] = field(default_factory=list)


@dataclass(frozen=True)
class AttentionMaps:
    """Where a model looked, word by word, in one part of its memory; one of the three kinds below.

    Attributes:
        words: T words, the end word left out.
        alpha: (T, ...) float32 weights of the part's locations.
        heads: (T, N, ...) float32 weights of each of N heads, where there are several; `alpha` is their mean.
        head_names: the names of the N heads ("layer 2, head 1").
        sentinel: (T,) float32 weight of the sentinel, where there is one: how little the word needed the memory.
    """

    words: tuple[str, ...]
    alpha: np.ndarray
    heads: np.ndarray | None = field(default=None, kw_only=True)
    head_names: tuple[str, ...] = field(default=(), kw_only=True)
    sentinel: np.ndarray | None = field(default=None, kw_only=True)


@dataclass(frozen=True)
class GridMaps(AttentionMaps):
    """Where a model looked in a photo's grid: `alpha` (T, h, w), `heads` (T, N, h, w).

    Attributes:
        image_size: (width, height) of the upright photo in pixels.
        grid_box: (x0, y0, x1, y1) the rectangle, in pixels of the upright photo, that the grid covers;
            it reaches past the photo's edges where the photo was padded.
    """

    image_size: tuple[int, int]
    grid_box: tuple[float, float, float, float]


@dataclass(frozen=True)
class RegionMaps(AttentionMaps):
    """Where a model looked among a photo's regions: `alpha` (T, R), `heads` (T, N, R).

    Attributes:
        image_size: (width, height) of the upright photo in pixels.
        boxes: (R, 4) float32 x0, y0, x1, y1 of the regions, in pixels of the upright photo.
        scores: (R,) float32 how sure the detector was of each, 0 to 1; NaN where that is not known.
    """

    image_size: tuple[int, int]
    boxes: np.ndarray
    scores: np.ndarray | None = field(default=None, kw_only=True)


@dataclass(frozen=True)
class WordMaps(AttentionMaps):
    """Where a model looked in a sentence, its alignment: `alpha` (T, S), `heads` (T, N, S).

    Attributes:
        source_words: the S words that were read.
    """

    source_words: tuple[str, ...]
