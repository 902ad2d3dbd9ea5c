"""What a decoder is, and the loop over words that all recurrent ones share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from captioner.models.attention import Attention
from captioner.models.attention.base import let_vary
from captioner.models.decoders.recording import STEPS, Recorder, Unrolled
from captioner.types import Attended, Feed, Memory, Reading, State, Step, TeacherForced


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
    def read(self, tokens: Tensor, state: State, memory: Memory) -> Reading:
        """Read one word of each sequence, look, and predict the next.

        Args:
            tokens: (B, K) the words before, the begin word at first.
            state: what `init_state` or the last reading gave.
            memory: the prepared memory of the B images.
        """

    @abstractmethod
    def follow(self, memory: Memory, tokens: Tensor, lengths: Tensor) -> TeacherForced:
        """What `forward` gives where all given words are read: all at once as far as may be."""

    def use_cuda_graphs(self) -> None:
        """In training on a GPU, launch what runs at every word as one CUDA graph, compiled or not.

        Where nothing does, as here unless a subclass says otherwise, nothing is launched so.
        """

    def step(self, tokens: Tensor, state: State, memory: Memory) -> tuple[Tensor, State]:
        """`read`, as a search needs it: (B, K, V) logits of the next word, and the state after it."""
        reading = self.read(tokens, state, memory)
        return reading.logits, reading.state

    def begin(self, memory: Memory, num_sequences: int = 1) -> tuple[Step, State]:
        """What a search starts from: the step over a prepared memory, and the state before the first word."""

        def step(tokens: Tensor, state: State) -> tuple[Tensor, State]:
            return self.step(tokens, state, memory)

        return step, self.init_state(memory, num_sequences)

    def forward(self, memory: Memory, tokens: Tensor, lengths: Tensor, feed: Feed | None = None) -> TeacherForced:
        """Predict every word of given captions from the words before it.

        Args:
            memory: the prepared memory of B images.
            tokens: (B, K, T + 1) begin word, words, end word, padding.
            lengths: (B, K) how many words to predict, the end word included; 0 for a missing caption.
            feed: chooses the words that are read, word by word: the model's own now and then, say (scheduled sampling,
                Bengio et al. 2015, arXiv 1506.03099). By default they are the given ones (teacher forcing), which is
                faster.

        Returns:
            The logits of the real words alone, and where the decoder looked. It agrees with `step`.
        """
        if feed is None:
            return self.follow(memory, tokens, lengths)
        plan = plan_steps(lengths.cpu(), tokens.shape[2] - 1).to(tokens.device)
        state = self.init_state(memory, lengths.shape[1])
        words = tokens[..., 0]
        logits: list[Tensor] = []
        looks: list[Attended] = []
        for number, corner in enumerate(plan.corners):
            if number > 0:
                words = feed(cut(tokens[..., number], corner), cut(logits[-1], corner))
            state = {name: cut(value, corner) for name, value in state.items()}
            reading = self.read(cut(words, corner), state, memory.first(corner[0]))
            state = reading.state
            logits.append(reading.logits)
            looks.append(reading.attended)
        return plan.answer(plan.gather(logits), looks, memory)


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

    `follow` embeds all real words at once, and projects them to the vocabulary at once, after the loop. Of the
    (B, K) rows it advances, at each step, the smallest corner that holds all rows with words left: little more
    than these when the images are sorted by their longest caption and the captions of an image by length,
    longest first, as `data.batches` does; any other order gives the same result.

    Attributes:
        compiled_advance: `advance`, compiled; see `compile`.
        recorder: records the loop over words in training, see `use_cuda_graphs`.
    """

    compiled_advance: Callable[..., tuple[Tensor, Attended, State]] | None = None
    recorder: Recorder | None = None

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

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile, in place, what runs at every word; for the arguments see `torch.compile`.

        On a GPU that is a whole step of the recurrence, whose many small kernels cost more to launch than to run. On a
        CPU it is the scores of attention alone: matrix products are the rest, and gain nothing.
        """
        if next(self.parameters()).is_cuda:
            self.compiled_advance = torch.compile(type(self).advance, *args, **kwargs)
            return
        for module in self.modules():
            if isinstance(module, Attention):
                module.compile(*args, **kwargs)

    def use_cuda_graphs(self) -> None:
        """See `Decoder.use_cuda_graphs`: a graph for each shape, from its second batch on.

        All rows are then advanced at all steps, whose number is a multiple of `recording.STEPS`.
        """
        self.recorder = Recorder()

    def read(self, tokens: Tensor, state: State, memory: Memory) -> Reading:
        """See `Decoder.read`."""
        word = self.embed(tokens)  # (B, K, E)
        hidden, attended, state = self._advance(self.drive(word), state, memory)
        return Reading(self.predict(Readout(word, hidden, attended.context)), attended, state)

    def _advance(self, drive: Tensor, state: State, memory: Memory) -> tuple[Tensor, Attended, State]:
        advance = self.compiled_advance or type(self).advance
        if self.compiled_advance is not None:
            let_vary(drive, *state.values(), *memory.tensors())
        hidden, attended, after = advance(self, drive, state, memory)
        return hidden, attended, {**after, "step": state["step"] + 1}

    def follow(self, memory: Memory, tokens: Tensor, lengths: Tensor) -> TeacherForced:
        """See `Decoder.follow`."""
        recorder = self.recorder if self.training and torch.is_grad_enabled() else None
        least = 1 if self.compiled_advance is None else 2  # the compiler makes code of its own for one
        plan = plan_steps(lengths.cpu(), tokens.shape[2] - 1, least if recorder is None else lengths.numel())
        if recorder is not None:
            plan = plan.lengthened(STEPS)
        plan = plan.to(tokens.device)
        words = self.embed(tokens[..., :-1].flatten()[plan.places])  # (N, E)
        drives = plan.spread(self.drive(words))
        state = self.init_state(memory, lengths.shape[1])
        if recorder is None:
            hiddens, looks = self._unroll(drives, state, memory)
        else:
            hiddens, looks = recorder.unroll(self._unroll, drives, state, memory, self)
        readout = Readout(words, plan.gather(hiddens), plan.gather([look.context for look in looks]))
        return plan.answer(self.predict(readout), looks, memory)

    def _unroll(self, drives: Sequence[Tensor], state: State, memory: Memory) -> Unrolled:
        """The loop over words: each step advances the corner that its drive is of."""
        hiddens, looks = [], []
        for drive in drives:
            rows, columns = drive.shape[:2]
            state = {name: cut(value, (rows, columns)) for name, value in state.items()}
            hidden, attended, state = self._advance(drive, state, memory.first(rows))
            hiddens.append(hidden)
            looks.append(attended)
        return Unrolled(hiddens, looks)


Corner = tuple[int, int]
"""The first so many rows and columns of (B, K, ...)."""


def cut(values: Tensor, corner: Corner) -> Tensor:
    """The corner (rows, columns, ...) of values (B, K, ...): no view, for which the compiler makes code of its own."""
    rows, columns = corner
    return (values if values.shape[:2] == corner else values[:rows, :columns]).contiguous()


@dataclass(frozen=True)
class Steps:
    """Which rows each of T steps advances, and where the N real words are among them.

    Attributes:
        mask: (B, K, T) bool, True where a word is real.
        corners: for each step the corner of (B, K) that it computes.
        places: (N,) where the real words lie in (B, K, T) when it is one row.
        computed: (N,) where they lie among all rows that are computed, one step's after another's.
    """

    mask: Tensor
    corners: list[Corner]
    places: Tensor
    computed: Tensor

    def to(self, device: torch.device) -> Steps:
        """The same on another device, which is not waited for."""
        mask, places, computed = (sent(tensor, device) for tensor in (self.mask, self.places, self.computed))
        return Steps(mask, self.corners, places, computed)

    def lengthened(self, multiple: int) -> Steps:
        """The same with steps at the end in which no word is real, up to a multiple of steps."""
        return replace(self, corners=[*self.corners, *self.corners[-1:] * (-len(self.corners) % multiple)])

    def spread(self, values: Tensor) -> list[Tensor]:
        """Each step's corner (rows, columns, G) of real words' values (N, G); zeros where no word is real."""
        sizes = [rows * columns for rows, columns in self.corners]
        computed = values.new_zeros(sum(sizes), values.shape[-1]).index_copy(0, self.computed, values)
        return [step.unflatten(0, corner) for step, corner in zip(computed.split(sizes), self.corners, strict=True)]

    def gather(self, steps: Sequence[Tensor]) -> Tensor:
        """The real words' rows (N, ...) of the steps' corners (rows, columns, ...)."""
        return torch.cat([step.flatten(0, 1) for step in steps]).index_select(0, self.computed)

    def stack(self, steps: Sequence[Tensor]) -> Tensor:
        """The steps' corners as one (B, K, T, ...), 0 where a word is not real."""
        rows = self.gather(steps)
        stacked = rows.new_zeros(self.mask.numel(), *rows.shape[1:]).index_copy(0, self.places, rows)
        return stacked.unflatten(0, self.mask.shape)

    def answer(self, logits: Tensor, looks: Sequence[Attended], memory: Memory) -> TeacherForced:
        """The answer to given captions: the real words' logits (N, V), and what each step's corner looked at."""
        alphas = [look.alpha for look in looks if look.alpha is not None]
        return TeacherForced(
            logits,
            self.mask,
            self.stack(alphas) if alphas else None,
            {name: self.stack([look.extras[name] for look in looks]) for name in looks[0].extras},
            memory.mask,
            self.places,
        )


def plan_steps(lengths: Tensor, num_words: int, least: int = 1) -> Steps:
    """Plan the steps over captions, in the host's memory, so that no accelerator is waited for.

    Args:
        lengths: (B, K) of the captions, on the host.
        num_words: T.
        least: images and sequences that every step computes at least, where there are so many.
    """
    step = torch.arange(num_words)
    mask = step < lengths[..., None]  # (B, K, T)
    rows = _last(lengths.amax(dim=1)[:, None] > step, least)  # (T,) images up to the last with words left
    columns = _last(lengths.amax(dim=0)[:, None] > step, least)
    before = torch.cumsum(rows * columns, dim=0) - rows * columns  # (T,) rows of earlier steps
    image, sequence, step = mask.nonzero(as_tuple=True)  # (N,) each
    return Steps(
        mask,
        list(zip(rows.tolist(), columns.tolist(), strict=True)),
        places=(image * lengths.shape[1] + sequence) * num_words + step,
        computed=before[step] + image * columns[step] + sequence,
    )


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host on another device; from page-locked memory a GPU fetches it by itself."""
    return (tensor.pin_memory() if device.type == "cuda" else tensor).to(device, non_blocking=True)


def _last(active: Tensor, least: int) -> Tensor:
    """One more than the last True of each column (N, T), and `least` at least, if there are so many rows."""
    return (active * torch.arange(1, len(active) + 1)[:, None]).amax(dim=0).clamp(min=min(least, len(active)))
