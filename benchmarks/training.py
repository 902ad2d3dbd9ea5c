"""Training steps of both sides: the decoder's alone, and the whole one with a live CNN."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import islice

import torch
from torch import Tensor, nn
from torch.optim import Adam

from benchmarks.measure import Side
from benchmarks.textbook import caption_loss, textbook_encoder_of, textbook_of
from benchmarks.workload import (
    Sizes,
    TrainingBatch,
    as_memory,
    make_decoder,
    make_encoder,
    make_features,
    make_pixels,
    training_batches,
)
from captioner.losses import CaptionLoss
from captioner.models import GridEncoder

CLIP = 5.0
LEARNING_RATE = 4e-4


@dataclass(frozen=True)
class Format:
    """How a side runs.

    Attributes:
        is_ours: ours, or the textbook.
        bf16: whether products are in bf16, by autocast, as `precision: bf16-mixed` has them; otherwise fp32.
        compiled: whether the decoder is compiled (of the textbook, its step: the loop around it is Python's).
        graphs: whether its loop over words is a CUDA graph.
    """

    is_ours: bool
    bf16: bool = False
    compiled: bool = False
    graphs: bool = False

    @property
    def name(self) -> str:
        """As tables have it."""
        number_format = "bf16" if self.bf16 else "fp32"
        how = ("compiled" if self.compiled else "eager") + (" graphs" if self.graphs else "")
        return f"{'ours' if self.is_ours else 'textbook'}, {how} {number_format}"


TUTORIALS, OURS_EAGER, OURS_COMPILED = Format(False), Format(True), Format(True, compiled=True)
DEFAULT = Format(True, bf16=True, compiled=True)
GRAPHS, COMPILED_GRAPHS = Format(True, True, graphs=True), Format(True, True, compiled=True, graphs=True)
FOR_INFORMATION = (
    Format(True, bf16=True),
    Format(False, bf16=True),
    Format(False, compiled=True),
    Format(False, bf16=True, compiled=True),
)


class OurStep:
    """Forward, loss, backward, clipping and Adam, as `tasks.CaptioningTask` under Lightning does them.

    Args:
        sizes: how large.
        device: where.
        how: see `Format`.
        encoder: makes features of pixels; None where they are given.
    """

    def __init__(
        self, sizes: Sizes, device: torch.device, how: Format = OURS_EAGER, encoder: GridEncoder | None = None
    ) -> None:
        self.sizes = sizes
        self.device = device
        self.how = how
        self.encoder = None if encoder is None else encoder.to(device)
        self.decoder = make_decoder(sizes).to(device)
        self.loss = CaptionLoss()
        self.trained = _trained(self.decoder, self.encoder)
        self.optimizer = Adam(self.trained, LEARNING_RATE)
        if how.compiled:
            self.decoder.compile(dynamic=True)  # as the task does
        if how.graphs:
            self.decoder.use_cuda_graphs()

    def __call__(self, source: Tensor, batch: TrainingBatch) -> Tensor:
        """One step on features (B, L, D), or pixels (B, 3, S, S); returns the loss before it, a mean."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.how.bf16):
            memory = as_memory(source, self.sizes.grid) if self.encoder is None else self.encoder(source)
            output = self.decoder(self.decoder.prepare(memory), batch.tokens, batch.lengths)
            sums = self.loss(output, batch.tokens[..., 1:])
        self.optimizer.zero_grad()
        sums.total.backward()
        for parameter in self.trained:
            if parameter.grad is not None:
                parameter.grad.div_(sums.count)
        nn.utils.clip_grad_norm_(self.trained, CLIP)
        self.optimizer.step()
        return sums.mean.detach()

    def check(self) -> None:
        """Raise where the loop was to be a CUDA graph and is none."""
        recorder = self.decoder.recorder
        if self.how.graphs and (recorder is None or recorder.has_failed or not recorder.recordings):
            raise RuntimeError("the loop over words was not recorded")


class TextbookStep:
    """The same by the textbook, a row for each caption.

    Args:
        sizes: how large.
        device: where.
        how: see `Format`.
        encoder: whose network makes features of pixels; None where they are given.
    """

    def __init__(
        self, sizes: Sizes, device: torch.device, how: Format = TUTORIALS, encoder: GridEncoder | None = None
    ) -> None:
        self.device = device
        self.how = how
        self.encoder = None if encoder is None else textbook_encoder_of(encoder).to(device)
        self.decoder = textbook_of(make_decoder(sizes)).to(device)
        self.trained = _trained(self.decoder, self.encoder)
        self.optimizer = Adam(self.trained, LEARNING_RATE)
        if how.compiled:
            self.decoder.step = torch.compile(self.decoder.step, dynamic=True)  # type: ignore[method-assign]

    def __call__(self, source: Tensor, batch: TrainingBatch) -> Tensor:
        """One step on features (R, L, D), or pixels (R, 3, S, S), each caption's own."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.how.bf16):
            features = source if self.encoder is None else self.encoder(source)
            loss = caption_loss(self.decoder(features, batch.tokens.flatten(0, 1), batch.lengths.flatten()))
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.trained, CLIP)
        self.optimizer.step()
        return loss.detach()

    def check(self) -> None:
        """It does what its name says."""


def _trained(decoder: nn.Module, encoder: nn.Module | None) -> list[nn.Parameter]:
    of_encoder = [] if encoder is None else [weight for weight in encoder.parameters() if weight.requires_grad]
    return [*decoder.parameters(), *of_encoder]


def per_caption(images: Tensor, sizes: Sizes) -> Tensor:
    """(R, ...) copies of (B, ...), one for each caption."""
    return images.repeat_interleave(sizes.captions_per_image, dim=0)


class TrainingWork:
    """Batches, and one source of all (it is not what differs between batches), for steps of any format.

    Args:
        sizes: how large.
        device: where.
        num_batches: how many batches there are; rounds take them in turn, the same for all sides.
        live: whether the source is pixels, and a CNN a part of the step.
        fine_tuned: whether that CNN is trained, too.
    """

    def __init__(
        self, sizes: Sizes, device: torch.device, num_batches: int, live: bool = False, fine_tuned: bool = False
    ) -> None:
        self.sizes = sizes
        self.device = device
        self.live = live
        self.trainable_from = sizes.fine_tuned_from if fine_tuned else None
        self.batches = [batch.to(device) for batch in islice(training_batches(sizes), num_batches)]
        source = make_pixels(sizes.num_images, sizes.pixels) if live else make_features(sizes)
        self.source = source.to(device)
        self.source_of_captions = per_caption(self.source, sizes)

    def step(self, how: Format) -> tuple[Callable[[int], Tensor], Callable[[], None]]:
        """What does the work of a round, given its number; and what raises unless it does so as the format says."""
        encoder = make_encoder(self.sizes, self.trainable_from) if self.live else None
        make: type[OurStep] | type[TextbookStep] = OurStep if how.is_ours else TextbookStep
        step = make(self.sizes, self.device, how, encoder)
        source = self.source if how.is_ours else self.source_of_captions
        return lambda number: step(source, self.batches[number % len(self.batches)]), step.check

    def side(self, how: Format, optional: bool = False) -> Side:
        """The same, to be measured."""
        step, check = self.step(how)
        plain = self.step(replace(how, compiled=False, graphs=False))[0] if how.compiled or how.graphs else step
        return Side(
            how.name,
            run=step,
            units=lambda number: self.batches[number % len(self.batches)].num_captions,
            num_kinds=len(self.batches),
            warm_ups=(2 if how.graphs else 1) * len(self.batches) if how.compiled or how.graphs else 1,
            counted=plain,
            check=check,
            dtype="bfloat16" if how.bf16 else "float32",
            compiled=how.compiled,
            set_aside=how.graphs,
            optional=optional,
        )
