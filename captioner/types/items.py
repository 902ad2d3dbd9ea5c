"""What readers give, and the batches that are made of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from captioner.types.memory import Memory

if TYPE_CHECKING:
    from torch import Tensor


class InputError(ValueError):
    """Something to caption that cannot be read.

    Attributes:
        name: what was given: a path, or what it was in place of one ("bytes", "array (4, 4, 3) uint8").
        reason: a short human sentence, on one line.
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)  # both are args, so that the error survives pickling between processes
        self.name = name
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


class ImageError(InputError):
    """An image that cannot be read."""


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

    @property
    def num_bytes(self) -> int:
        """How long the image file is, where that is known before it is read; else 0."""
        return 0

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
        path: where the image file lies; or the image in a shard itself.
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

    @property
    def references(self) -> list[Sequence[str]]:
        """The reference captions of each, all that there are, as written."""
        return [item.captions for item in self.items]
