"""Where what a model looks at comes from. A new kind of input is a class of its own, which nobody else knows."""

from __future__ import annotations

from abc import ABCMeta, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from torch import Tensor

    from captioner.types.items import InputError
    from captioner.types.memory import Memory


@dataclass(frozen=True)
class Opened:
    """A user's input, ready for the model.

    Attributes:
        tensor: what the source stacks: pixels, features of a cache, regions of a file, words.
        size: (width, height) of the upright photo.
        view: (x0, y0, x1, y1) what the encoder sees of it, see `GridMaps.grid_box`.
        source_words: the words of a sentence.
    """

    tensor: Any
    size: tuple[int, int] = (0, 0)
    view: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    source_words: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False, repr=False)  # as is a transform, which a config names by its arguments alone
class Source(metaclass=ABCMeta):
    """Gives what an encoder takes, or memories that were computed before: of items, and of what a user gives."""

    @abstractmethod
    def load(self, item: Any, epoch: int, index: int) -> Any:
        """One item of a data set, for `stack`.

        Args:
            item: what a reader of this kind of items gives.
            epoch: of the training; random changes may depend on it, and on the index.
            index: the item's place in the data set.

        Raises:
            InputError: it cannot be had; says which item.
        """

    @abstractmethod
    def stack(self, loaded: Sequence[Any]) -> Tensor | Memory:
        """What a batch of them is to the model."""

    @abstractmethod
    def open(self, given: Any) -> Opened:
        """What a user gives (a photo in any form, a sentence), without random changes.

        Raises:
            InputError: it cannot be had.
            TypeError: it is given in a form that this source does not take.
        """

    def check(self, items: Iterable[Any]) -> Sequence[InputError]:
        """Those of some items that cannot be had, as far as that is known before they are loaded; here nothing is."""
        return ()


@dataclass(frozen=True, eq=False, repr=False)
class Transform(Source):
    """The source of inputs as they come, kept with a model; its arguments (as of any part) go into the model's file.

    Attributes:
        reads: what it makes ready, in the plural, for messages.
    """

    reads: ClassVar[str] = "photos"

    @property
    def vocabularies(self) -> list[str]:
        """All that makes ids of what is read, as texts to compare; nothing, unless it reads words."""
        return []

    @property
    def encoder_sizes(self) -> tuple[int, ...]:
        """What an encoder has to be told before it can be made: the size of a vocabulary that it reads, say."""
        return ()
