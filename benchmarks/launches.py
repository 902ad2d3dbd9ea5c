"""On paper: what a training step has a GPU launch, and what a CUDA graph of the loop over words saves of it.

    python -m benchmarks.launches

counts the operations of the decoder's training step in float32 on tensors without values, which take the way that a
GPU's take; each is a kernel, or a few (autocast adds casts). A step's score is one Triton kernel on a GPU, and two
backward.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import mean
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.training import CLIP, LEARNING_RATE
from benchmarks.workload import Sizes, as_memory, make_decoder, training_batches
from captioner.losses import CaptionLoss
from captioner.models.attention import additive
from captioner.models.decoders.recording import STEPS

META = torch.device("meta")
LAUNCH = 5e-6  # seconds of the host for an operation of PyTorch's: 4 to 8 microseconds, by the CPU and the operation
KERNEL = 2e-6  # seconds of the GPU for a small kernel, its start within a graph included
COPIES = 20  # into a graph and out of it, about: inputs, outputs' gradients, gradients
SHORT, LONG = 8, 16  # words
NOT_KERNELS = ("aten::empty", "aten::new_empty", "aten::detach", "aten::lift", "aten::alias")


@dataclass(frozen=True)
class Launches:
    """Operations of a training step.

    Attributes:
        word_forward: of a word of the loop.
        word_backward: of its backward pass.
        around_forward: of what is done once: keys, gates, vocabulary, loss.
        around_backward: of its backward pass.
        optimiser: of clipping and Adam.
    """

    word_forward: float
    word_backward: float
    around_forward: float
    around_backward: float
    optimiser: float

    @property
    def once(self) -> float:
        """Whatever the number of words."""
        return self.around_forward + self.around_backward + self.optimiser

    def of(self, num_words: float) -> float:
        """Of a step of so many words."""
        return self.once + num_words * (self.word_forward + self.word_backward)


class _Counter(TorchDispatchMode):
    """Counts operations that compute something."""

    def __init__(self) -> None:
        super().__init__()
        self.number = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.number += not func.is_view and not func.name().startswith(NOT_KERNELS)
        return func(*args, **(kwargs or {}))


def one_kernel(query: Tensor, keys: Tensor, energy: Tensor) -> Tensor:
    """In place of `additive.weighted_sums`."""
    return torch.zeros(*query.shape[:2], keys.shape[1], device=keys.device)


def two_kernels(query: Tensor, keys: Tensor, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """In place of `additive.slope_sums`: two kernels, and a sum."""
    return torch.zeros_like(query), torch.zeros_like(keys), query.sum(dim=(0, 1))


@contextmanager
def scores_as_kernels() -> Iterator[None]:
    """Scores are made by so many operations, and in as much memory, as Triton's kernels make them."""
    with (
        mock.patch.object(additive, "weighted_sums", one_kernel),
        mock.patch.object(additive, "slope_sums", two_kernels),
    ):
        yield


def count_launches(sizes: Sizes) -> Launches:
    """Count, for captions that are all of one length, and for longer ones: the difference is the loop's."""
    short, long = _count(sizes, SHORT), _count(sizes, LONG)
    forward, backward = ((more - less) / (LONG - SHORT) for less, more in zip(short[:2], long[:2], strict=True))
    return Launches(forward, backward, short[0] - SHORT * forward, short[1] - SHORT * backward, short[2])


def _count(sizes: Sizes, num_words: int) -> tuple[int, int, int]:
    """Operations forward, backward and of the optimiser."""
    decoder = make_decoder(sizes).to(META)
    optimizer = torch.optim.Adam(decoder.parameters(), LEARNING_RATE, foreach=True)  # as on a GPU
    memory = as_memory(torch.empty(sizes.num_images, sizes.grid**2, sizes.feature_dim, device=META), sizes.grid)
    shape = (sizes.num_images, sizes.captions_per_image)
    tokens = torch.zeros(*shape, num_words + 1, dtype=torch.long, device=META)
    lengths = torch.full(shape, num_words)
    loss: list[Tensor] = []

    def forward() -> None:
        output = decoder(decoder.prepare(memory), tokens, lengths)
        loss.append(CaptionLoss()(output, tokens[..., 1:]).total)

    def step() -> None:
        gradients = [weight.grad for weight in decoder.parameters() if weight.grad is not None]
        norm = torch.stack(torch._foreach_norm(gradients)).norm()  # as `clip_grad_norm_` does on a GPU
        torch._foreach_mul_(gradients, (CLIP / (norm + 1e-6)).clamp(max=1))
        optimizer.step()

    with scores_as_kernels():
        return _counted(forward), _counted(lambda: loss[0].backward()), _counted(step)


def _counted(work: Callable[[], Any]) -> int:
    with _Counter() as counter:
        work()
    return counter.number


def table(launches: Launches, num_words: float) -> str:
    """The counts in Markdown, and what they come to."""
    padded = -(-num_words // STEPS) * STEPS
    eager, graphed = launches.of(num_words), launches.once + COPIES
    in_graph = padded * (launches.word_forward + launches.word_backward)
    return "\n".join(
        [
            "| operations | forward | backward |",
            "| --- | ---: | ---: |",
            f"| of each word | {launches.word_forward:.0f} | {launches.word_backward:.0f} |",
            f"| of what is done once | {launches.around_forward:.0f} | {launches.around_backward:.0f} |",
            f"| of clipping and Adam | {launches.optimiser:.0f} | |",
            "",
            f"A batch has {num_words:.1f} words on average: {eager:,.0f} operations, "
            f"{eager * LAUNCH * 1e3:.1f} ms of the host at {LAUNCH * 1e6:.0f} us each.",
            f"With the loop as CUDA graphs: {graphed:,.0f} operations and 2 graphs, {graphed * LAUNCH * 1e3:.1f} ms of "
            f"the host; the graphs' {in_graph:,.0f} kernels take a GPU {in_graph * KERNEL * 1e3:.1f} ms at "
            f"{KERNEL * 1e6:.0f} us each.",
        ]
    )


def main() -> int:
    """Count, and print the table."""
    sizes = Sizes()
    num_words = mean(batch.tokens.shape[2] - 1 for batch in training_batches(sizes))
    print(table(count_launches(sizes), num_words))
    return 0


if __name__ == "__main__":
    sys.exit(main())
