"""What a decoder is, and the teacher-forced loop that all recurrent ones share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from captioner.types import Attended, Memory, State, TeacherForced


class Decoder(nn.Module, ABC):
    """A memory in, words out; K sequences read one copy of each image's memory.

    Attributes:
        vocab_size: V, how many words it chooses from.
        num_layers: how many layers attend; what they give as "heads" comes layer by layer.
    """

    vocab_size: int
    num_layers: int = 1

    @abstractmethod
    def prepare(self, memory: Memory) -> Memory:
        """Do what is done once per image; the memory that comes back has keys where attention needs them."""

    @abstractmethod
    def init_state(self, memory: Memory, num_sequences: int) -> State:
        """The state before the first word, of K sequences per image; every tensor is (B, K, ...)."""

    @abstractmethod
    def step(self, tokens: Tensor, state: State, memory: Memory) -> tuple[Tensor, State]:
        """Read one word of each sequence and predict the next.

        Args:
            tokens: (B, K) the words before, the begin word at first.
            state: what `init_state` or the last step gave.
            memory: the prepared memory of the B images.

        Returns:
            (B, K, V) logits of the next word, and the state after it.
        """

    @abstractmethod
    def forward(self, memory: Memory, tokens: Tensor, lengths: Tensor) -> TeacherForced:
        """Predict every word of given captions from the words before it (teacher forcing).

        Args:
            memory: the prepared memory of B images.
            tokens: (B, K, T + 1) begin word, words, end word, padding.
            lengths: (B, K) how many words to predict, the end word included; 0 for a missing caption.

        Returns:
            The logits of the real words alone, and where the decoder looked. It agrees with `step`.
        """


class Readout(NamedTuple):
    """What a recurrent decoder's output layer needs of each word.

    Attributes:
        word: (..., E) vectors of the words read.
        hidden: (..., H) hidden states after them.
        context: (..., D) what was seen.
    """

    word: Tensor
    hidden: Tensor
    context: Tensor


class RecurrentDecoder(Decoder):
    """A decoder that moves word by word; subclasses give `embed`, `drive`, `advance` and `predict`.

    `forward` embeds all real words at once, and projects them to the vocabulary at once, after the loop. Of the
    (B, K) rows it advances, at each step, the smallest corner that holds all rows with words left: little more
    than these when the images are sorted by their longest caption and the captions of an image by length,
    longest first, as `data.batches` does; any other order gives the same result.
    """

    @abstractmethod
    def embed(self, tokens: Tensor) -> Tensor:
        """Vectors (..., E) of tokens (...)."""

    @abstractmethod
    def drive(self, words: Tensor) -> Tensor:
        """What word vectors (..., E) send into the recurrence, (..., G); done for all words at once."""

    @abstractmethod
    def advance(self, drive: Tensor, state: State, memory: Memory) -> tuple[Tensor, Attended, State]:
        """One step of the recurrence.

        Args:
            drive: (B, K, G) of the words read.
            state: the state before; "step" (B, K) int64 is the number of the word that comes next, counted here.
            memory: the prepared memory.

        Returns:
            What the output layer reads, hidden (B, K, H) and the attended context; and the state after.
        """

    @abstractmethod
    def predict(self, readout: Readout) -> Tensor:
        """Logits (..., V) of the next words."""

    def step(self, tokens: Tensor, state: State, memory: Memory) -> tuple[Tensor, State]:
        """See `Decoder.step`."""
        word = self.embed(tokens)  # (B, K, E)
        hidden, attended, state = self._advance(self.drive(word), state, memory)
        return self.predict(Readout(word, hidden, attended.context)), state

    def _advance(self, drive: Tensor, state: State, memory: Memory) -> tuple[Tensor, Attended, State]:
        hidden, attended, after = self.advance(drive, state, memory)
        return hidden, attended, {**after, "step": state["step"] + 1}

    def forward(self, memory: Memory, tokens: Tensor, lengths: Tensor) -> TeacherForced:
        """See `Decoder.forward`."""
        num_sequences = lengths.shape[1]
        num_words = tokens.shape[2] - 1
        mask = torch.arange(num_words, device=lengths.device) < lengths[..., None]  # (B, K, T)
        words = self.embed(tokens[..., :-1][mask])  # (N, E)
        drives = _spread(self.drive(words), mask)  # (B, K, T, G)
        state = self.init_state(memory, num_sequences)
        hiddens, looks = [], []
        for drive, (rows, columns) in zip(drives.unbind(dim=2), _active(lengths.cpu(), num_words), strict=True):
            state = {name: value[:rows, :columns] for name, value in state.items()}
            hidden, attended, state = self._advance(drive[:rows, :columns], state, memory.first(rows))
            hiddens.append(hidden)
            looks.append(attended)
        readout = Readout(words, _gather(hiddens, mask), _gather([look.context for look in looks], mask))
        alphas = [look.alpha for look in looks if look.alpha is not None]
        return TeacherForced(
            self.predict(readout),
            mask,
            _stack(alphas, mask) if alphas else None,
            {name: _stack([look.extras[name] for look in looks], mask) for name in looks[0].extras},
            memory.mask,
        )


def _stack(steps: Sequence[Tensor], mask: Tensor) -> Tensor:
    """Corners (B' <= B, K' <= K, ...) of T steps as one (B, K, T, ...), 0 where a word is not real."""
    num_images, num_sequences, _ = mask.shape
    padded = [
        functional.pad(step, (0, 0) * (step.dim() - 2) + (0, num_sequences - step.shape[1], 0, num_images - len(step)))
        for step in steps
    ]
    stacked = torch.stack(padded, dim=2)
    return stacked * mask.view(*mask.shape, *[1] * (stacked.dim() - 3))


def _gather(steps: Sequence[Tensor], mask: Tensor) -> Tensor:
    """The real words' rows (N, ...) of T steps' corners."""
    return _stack(steps, mask)[mask]


def _spread(rows: Tensor, mask: Tensor) -> Tensor:
    """Rows (N, G) at the places (B, K, T) of real words; zeros elsewhere."""
    return rows.new_zeros((*mask.shape, rows.shape[-1])).index_put(mask.nonzero(as_tuple=True), rows)


def _active(lengths: Tensor, num_words: int) -> list[tuple[int, int]]:
    """For each step, how many images, and how many sequences of each, still have words."""
    longest_of_image, longest_of_column = lengths.amax(dim=1), lengths.amax(dim=0)
    active = []
    for step in range(num_words):
        rows = (longest_of_image > step).nonzero()
        columns = (longest_of_column > step).nonzero()
        active.append((int(rows[-1]) + 1 if len(rows) else 1, int(columns[-1]) + 1 if len(columns) else 1))
    return active
