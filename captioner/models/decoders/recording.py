"""The loop over words as CUDA graphs: recorded once for each shape, then launched as one.

A step of the recurrence is some thirty small kernels forward and twice as many backward, each of which costs the host
more time to launch than a GPU to run (`docs/gpu.md` has them counted). A graph holds all of a loop's. It computes
what the loop computes, by the same kernels, and reads and writes the same memory at every replay.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any, ClassVar, NamedTuple, Protocol, TypeVar
from weakref import ref

import torch
from torch import Tensor, nn
from torch.func import functional_call

from captioner.models.attention.base import autocast_format, without_autocast
from captioner.types import Attended, Memory, State

STEPS = 4
"""Loops are recorded for multiples of so many words, so that few are recorded."""

MOST = 16
"""Loops that are kept; other shapes go unrecorded."""

Result = TypeVar("Result")


class Unrolled(NamedTuple):
    """What each step of a loop gave, (B, K, ...)."""

    hiddens: Sequence[Tensor]
    looks: Sequence[Attended]


Loop = Callable[[Sequence[Tensor], State, Memory], Unrolled]
"""The drives (B, K, G) of all steps, the state before the first and the prepared memory, to what each step gave."""


class Tape(Protocol):
    """Work that was recorded."""

    def replay(self) -> None:
        """Do it again, on what its inputs hold now; its results are where they were."""


class Recorder:
    """Records a decoder's loop over words in training, and replays it.

    A shape that comes once, as an epoch's last batch may, is not recorded. Where recording fails a warning says why,
    and loops go on without. A replay overwrites what the one before has kept for its backward pass; while that may
    still come, loops go unrecorded.
    """

    kind: ClassVar[str] = "cuda"  # of device; loops on others are done as they are

    def __init__(self) -> None:
        self.has_failed = False
        self.seen: set[Hashable] = set()
        self.recordings: dict[Hashable, Recording] = {}
        self.inputs: dict[Hashable, Tensor] = {}  # which recordings that take the like share
        self.turn = 0  # how many replays there were
        self.pending: Callable[[], Any] = _nothing  # gives something while the last one's backward pass may come

    def unroll(
        self, loop: Loop, drives: Sequence[Tensor], state: State, memory: Memory, weights: nn.Module
    ) -> Unrolled:
        """Do a loop, or replay it.

        Args:
            loop: what to do.
            drives: what goes into each step, all of one shape.
            state: the state before the first.
            memory: the prepared memory.
            weights: what holds the parameters that the loop reads.
        """
        if self.has_failed or drives[0].device.type != self.kind or not drives[0].requires_grad:
            return loop(drives, state, memory)
        stacked = torch.stack(tuple(drives))  # recorded or not: the compiler makes code for views of one kind
        if self.pending() is not None:
            return loop(stacked.unbind(), state, memory)
        given = [stacked, *state.values(), *_tensors(memory)]
        places = (weight.data_ptr() for weight in weights.parameters() if weight.requires_grad)
        shape = (*map(_format, given), autocast_format(given[0].device), *places)
        if shape in self.seen and shape not in self.recordings and len(self.recordings) < MOST:
            self._record(shape, _Work(loop, tuple(state), memory, weights), given)
        self.seen.add(shape)
        recording = self.recordings.get(shape)
        if recording is None:
            return loop(stacked.unbind(), state, memory)
        return recording.work.read(_Replay.apply(self, recording, *given, *recording.weights))

    def _record(self, shape: Hashable, work: _Work, given: Sequence[Tensor]) -> None:
        inputs = [self.inputs.setdefault((place, _format(like)), _copy(like)) for place, like in enumerate(given)]
        try:
            self.recordings[shape] = Recording(self, work, inputs)
        except Exception as error:  # of CUDA, of the compiler, of a part that asks the GPU for a value
            first: BaseException = error
            while first.__context__ is not None:  # a recording that cannot be ended hides why
                first = first.__context__
            reason = (str(first).splitlines() or [type(first).__name__])[0]
            warnings.warn(f"the loop over words goes without CUDA graphs: {reason}", stacklevel=2)
            self.has_failed = True
            self.recordings.clear()
            self.inputs.clear()
            self.recover()

    @cached_property
    def stream(self) -> torch.cuda.Stream:
        """Where loops are recorded."""
        return torch.cuda.Stream()

    @cached_property
    def pool(self) -> Any:
        """The memory that all recordings work in: only one at a time has anything in it that is still needed."""
        return torch.cuda.graph_pool_handle()

    def rehearse(self, work: Callable[[], Any]) -> None:
        """Do what is to be recorded before it is: libraries make themselves ready, kernels are compiled."""
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            for _ in range(2):
                work()
        torch.cuda.current_stream().wait_stream(self.stream)

    def record(self, work: Callable[[], Result]) -> tuple[Tape, Result]:
        """Record work; returns it with its results, which each replay overwrites."""
        graph = torch.cuda.CUDAGraph()
        before = torch.cuda.stream(torch.cuda.current_stream())  # which a recording that fails does not give back
        # thread_local: others, such as the thread that pins batches, go on meanwhile
        with before, torch.cuda.graph(graph, self.pool, self.stream, capture_error_mode="thread_local"):
            results = work()
        return graph, results

    def recover(self) -> None:
        """After a recording that failed: neither memory nor random numbers are of a recording any more."""
        device = torch.cuda.current_device()
        with suppress(Exception):
            torch._C._cuda_endAllocateToPool(device, self.pool)
        generator = torch.cuda.default_generators[device]
        generator.graphsafe_set_state(generator.clone_state())

    def __deepcopy__(self, memo: dict[int, Any]) -> Recorder:
        """A copied decoder has weights of its own, and records anew."""
        return type(self)()


class _Work(nn.Module):
    """A loop as tensors in, tensors out.

    Args:
        loop: the loop.
        state: the names in the state.
        memory: one of the form that all will have.
        weights: what holds the parameters that the loop reads.
    """

    def __init__(self, loop: Loop, state: Sequence[str], memory: Memory, weights: nn.Module) -> None:
        super().__init__()
        self.weights = weights
        self.loop = loop
        self.state = state
        self.form = memory.map(torch.Tensor.detach)
        self.has_alpha = False
        self.extras: Sequence[str] = ()

    def forward(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Hidden states, contexts, weights where there are any, and extras of all T steps, (T, B, K, ...) each."""
        drives, *others = inputs
        state = dict(zip(self.state, others, strict=False))
        tensors = iter(others[len(state) :])
        hiddens, looks = self.loop(drives.unbind(), state, self.form.map(lambda _: next(tensors)))
        alphas = [look.alpha for look in looks if look.alpha is not None]
        self.has_alpha, self.extras = bool(alphas), tuple(looks[0].extras)
        found = [hiddens, [look.context for look in looks], *([alphas] if alphas else [])]
        found += [[look.extras[name] for look in looks] for name in self.extras]
        return [torch.stack(tuple(steps)) for steps in found]

    def read(self, outputs: Sequence[Tensor]) -> Unrolled:
        """What such tensors say of each step."""
        hiddens, contexts, *others = (output.unbind() for output in outputs)
        alphas: Sequence[Tensor | None] = others.pop(0) if self.has_alpha else [None] * len(hiddens)
        looks = [
            Attended(context, alpha, {name: steps[number] for name, steps in zip(self.extras, others, strict=True)})
            for number, (context, alpha) in enumerate(zip(contexts, alphas, strict=True))
        ]
        return Unrolled(hiddens, looks)


class Recording:
    """A loop of one shape, forward and backward.

    Args:
        recorder: whose it is.
        work: the loop.
        inputs: where it reads its inputs, which hold some.

    Attributes:
        weights: those that it reads.
        outputs: where it writes.
        slopes: where its backward pass reads the gradients of those outputs that have some.
        gradients: where that writes those of the inputs that have some, and of the weights.
    """

    def __init__(self, recorder: Recorder, work: _Work, inputs: Sequence[Tensor]) -> None:
        self.work = work
        self.inputs = inputs
        self.live: list[Tensor] = []
        weights = {name: weight for name, weight in work.named_parameters() if weight.requires_grad}
        # The same memory, in graphs of autograd of their own: what else refers to the parameters' (the batch's prepared
        # memory, a loss that was kept) would have the backward pass wait for the streams that it was made on.
        twins: dict[str, Tensor] = {name: nn.Parameter(weight.detach()) for name, weight in weights.items()}
        asked = [*(tensor for tensor in inputs if tensor.requires_grad), *twins.values()]

        def forward() -> list[Tensor]:
            self.live = functional_call(work, twins, (inputs,))
            return [output.detach() for output in self.live]

        def backward(slopes: Sequence[Tensor]) -> Sequence[Tensor | None]:
            learning = [output for output in self.live if output.requires_grad]
            with without_autocast(inputs[0].device):
                return torch.autograd.grad(learning, asked, slopes, allow_unused=True)

        def rehearsal() -> None:
            forward()
            backward([torch.zeros_like(output) for output in self.live if output.requires_grad])

        try:
            torch.clear_autocast_cache()  # it holds weights in bf16, which a replay would not make again
            recorder.rehearse(rehearsal)
            torch.clear_autocast_cache()
            self.forward, self.outputs = recorder.record(forward)
            self.learns: list[bool] = [output.requires_grad for output in self.live]
            self.slopes = [torch.zeros_like(output) for output in self.live if output.requires_grad]
            self.backward, found = recorder.record(lambda: backward(self.slopes))
        finally:
            torch.clear_autocast_cache()  # nor may others see those that a replay overwrites
            self.live = []
        num_inputs = len(asked) - len(twins)
        of_weights = [pair for pair in zip(weights.values(), found[num_inputs:], strict=True) if pair[1] is not None]
        self.weights = [weight for weight, _ in of_weights]
        self.gradients = [*found[:num_inputs], *(gradient for _, gradient in of_weights)]


class _Replay(torch.autograd.Function):
    """A recording's work in the graph of autograd; inputs are copied in, gradients are copied out."""

    @staticmethod
    def forward(ctx: Any, recorder: Recorder, recording: Recording, *tensors: Tensor) -> tuple[Tensor, ...]:
        for place, tensor in zip(recording.inputs, tensors, strict=False):
            place.copy_(tensor)
        recording.forward.replay()
        recorder.turn += 1
        ctx.recorder, ctx.recording, ctx.turn, ctx.sign = recorder, recording, recorder.turn, _SignOfLife()
        recorder.pending = ref(ctx.sign)  # it ends with the graph of autograd, backward pass or none
        outputs = tuple(output.detach() for output in recording.outputs)
        fixed = [output for output, learns in zip(outputs, recording.learns, strict=True) if not learns]
        ctx.mark_non_differentiable(*fixed)
        ctx.set_materialize_grads(False)
        return outputs

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *slopes: Tensor | None) -> tuple[Tensor | None, ...]:
        recorder, recording = ctx.recorder, ctx.recording
        if ctx.turn != recorder.turn:
            raise RuntimeError(
                "this loop over words was overwritten by a later one: a graph that is retained needs cuda_graphs: false"
            )
        arrived = [slope for slope, learns in zip(slopes, recording.learns, strict=True) if learns]
        for place, slope in zip(recording.slopes, arrived, strict=True):
            place.zero_() if slope is None else place.copy_(slope)
        recording.backward.replay()
        recorder.pending = _nothing
        gradients = iter([None if found is None else found.clone() for found in recording.gradients])
        of_inputs = [next(gradients) if place.requires_grad else None for place in recording.inputs]
        return None, None, *of_inputs, *gradients


class _SignOfLife:
    """Lives as long as what refers to it."""


def _nothing() -> None:
    """Nothing is pending."""


def _tensors(memory: Memory) -> list[Tensor]:
    """All tensors of a memory, in the order that `Memory.map` visits them in."""
    found: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    memory.map(keep)
    return found


def _copy(tensor: Tensor) -> Tensor:
    """A tensor of its own, with the same values."""
    return tensor.detach().clone().requires_grad_(tensor.requires_grad)


def _format(tensor: Tensor) -> Hashable:
    """All of a tensor but its values."""
    return tensor.shape, tensor.stride(), tensor.dtype, tensor.requires_grad
