"""What a model says of a photo."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from captioner.types import AttentionMaps


class Alternative(NamedTuple):
    """A caption that a search found beside the best.

    Attributes:
        text: the caption.
        log_prob: the model's natural log-probability of it.
    """

    text: str
    log_prob: float


@dataclass(frozen=True)
class Caption:
    """What a model says of one photo (or sentence).

    Attributes:
        text: the caption.
        words: its words.
        log_prob: the model's natural log-probability of the caption (the end word included).
        looks: where it looked for each word: maps for each part of its memory; none where it does not attend.
        others: what else the search found, best first, where more than one caption was asked for.
    """

    text: str
    words: tuple[str, ...]
    log_prob: float
    looks: tuple[AttentionMaps, ...] = ()
    others: tuple[Alternative, ...] = ()

    @property
    def maps(self) -> AttentionMaps:
        """Where it looked in the first part of its memory, which for most models is all of it.

        Raises:
            ValueError: the model does not attend, or no maps were asked for.
        """
        if not self.looks:
            raise ValueError("no maps: this model does not attend, or it was told to caption without (maps=False)")
        return self.looks[0]
