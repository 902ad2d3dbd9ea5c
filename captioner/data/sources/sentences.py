"""Sentences in place of images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from captioner.tokenizer import Tokenizer
from captioner.types import InputError, Opened, TextPair, Transform

if TYPE_CHECKING:
    from torch import Tensor


class TextError(InputError):
    """A sentence that cannot be read."""


@dataclass(frozen=True)
class TextTransform(Transform):
    """Makes a sentence ready for an encoder: its words' ids.

    Attributes:
        tokenizer: the vocabulary of the source.
    """

    reads = "sentences"

    tokenizer: Tokenizer

    def __call__(self, text: str) -> Tensor:
        """Read a sentence.

        Args:
            text: the sentence as written; words that the vocabulary lacks are read as the unknown word.

        Returns:
            (S,) int64 ids.

        Raises:
            TextError: the sentence has no words.
        """
        import torch

        ids = self.tokenizer.encode(text)
        if not ids:
            raise TextError(repr(text), "there are no words to read")
        return torch.tensor(ids, dtype=torch.int64)

    @property
    def vocabularies(self) -> list[str]:
        """See `Transform.vocabularies`."""
        return [self.tokenizer.to_json()]

    @property
    def encoder_sizes(self) -> tuple[int, ...]:
        """See `Transform.encoder_sizes`: of the vocabulary."""
        return (self.tokenizer.vocab_size,)

    def load(self, item: TextPair, epoch: int, index: int) -> Tensor:
        """(S,) int64 ids of a pair's source; an error says which pair's."""
        try:
            return self(item.text)
        except TextError as error:
            raise TextError(f"{item.key}: {error.name}", error.reason) from error

    def check(self, items: Iterable[TextPair]) -> list[TextError]:
        """See `Source.check`: the sentences without words."""
        problems = []
        for item in items:
            try:
                self.load(item, 0, 0)
            except TextError as error:
                problems.append(error)
        return problems

    def stack(self, loaded: Sequence[Tensor]) -> Tensor:
        """(B, S) int64 ids, padded behind."""
        from torch.nn.utils.rnn import pad_sequence

        return pad_sequence(list(loaded), batch_first=True, padding_value=Tokenizer.pad_id)

    def open(self, given: str) -> Opened:
        """See `Source.open`: a sentence as written."""
        text = str(given)
        return Opened(self(text), source_words=tuple(self.words(text)))

    def words(self, text: str) -> list[str]:
        """What each of the S ids stands for: a word of the text, unknown ones as spelt there, or a piece of one."""
        ids = self.tokenizer.encode(text)
        words: list[str] = []
        for word, where in self.tokenizer.align(text):
            pieces = ids[where]
            words += [word] if len(pieces) == 1 else [self.tokenizer.decode([piece]) for piece in pieces]
        return words
