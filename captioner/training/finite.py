"""Stops a training whose numbers are no longer finite, before anything of it is saved."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from captioner.devices import fetched
from captioner.types import CaptionedImage, Item

STEPS_BEHIND = {"cuda": 2}
"""How many optimiser steps later an answer is read, by the kind of device: a GPU that is asked stands idle."""

NUM_NAMED = 8  # items of a batch that an error names
CAUSES = (
    "Usual causes are a learning rate that is too high (model.optimizer, model.encoder_lr), gradients that are not "
    "clipped (trainer.gradient_clip_val: 5.0) and images or features that hold such values. Nothing was saved after "
    "it: go on from the last checkpoint by --ckpt_path last"
)


class NotFiniteError(ValueError):
    """A loss, gradients or weights that are infinite or not a number (NaN)."""


class _Look(NamedTuple):
    """Whether a step's loss and gradients were finite, and what it was made of."""

    read: Callable[[], Tensor]
    where: str
    items: list[Item]


class FiniteWatch:
    """Looks at every optimiser step's loss and gradients.

    On a CPU it looks before the step is taken. A GPU's answer is read two steps later, so that nothing waits; but
    always before a checkpoint is written.
    """

    def __init__(self) -> None:
        self.items: list[Item] = []  # of the batches since the last step
        self.looks: deque[_Look] = deque()

    def __deepcopy__(self, memo: dict) -> FiniteWatch:
        """A copy of a training's task watches over its own steps."""
        return type(self)()

    def saw(self, items: Sequence[Item]) -> None:
        """Note what a batch is made of."""
        self.items += items

    def step(self, where: str, loss: Tensor, gradients: list[Tensor], scaled: bool) -> None:
        """Look at a step.

        Args:
            where: names it.
            loss: its loss, or the sums that make it.
            gradients: of all parameters.
            scaled: whether the loss is scaled for float16: infinite gradients are part of that, such a step is
                skipped.

        Raises:
            NotFiniteError: this step's numbers, or those of a step before, are not finite.
        """
        good = [loss.isfinite().all()]
        if gradients and not scaled:
            largest = torch._foreach_norm(gradients, ord=torch.inf)
            good.append(torch.stack(list(largest)).isfinite().all())
        self.looks.append(_Look(fetched(torch.stack(good)), where, self.items))
        self.items = []
        self._read(STEPS_BEHIND.get(loss.device.type, 0))

    def require(self, weights: Mapping[str, Tensor]) -> None:
        """See that what is to be saved is finite: all steps so far, and the weights.

        Raises:
            NotFiniteError: it is not.
        """
        self._read(0)
        floating = {name: tensor for name, tensor in weights.items() if tensor.is_floating_point() and tensor.numel()}
        if not floating:
            return
        largest = torch.stack([tensor.detach().abs().amax().float() for tensor in floating.values()])
        if not largest.isfinite().all():
            names = [name for name, good in zip(floating, largest.isfinite().tolist(), strict=True) if not good]
            raise NotFiniteError(f"the weights {names[0]} are not finite after the last step. {CAUSES}")

    def _read(self, num_left: int) -> None:
        while len(self.looks) > num_left:
            look = self.looks.popleft()
            good = look.read().tolist()
            if not all(good):
                what = "the gradients are" if good[0] else "the loss is"
                raise NotFiniteError(
                    f"{what} not finite (infinite or NaN) in {look.where}, with {named(look.items)}. {CAUSES}"
                )


def named(items: Iterable[Item]) -> str:
    """The first items of a batch, by their files where they have some."""
    names = [str(item.path) if isinstance(item, CaptionedImage) else f"sentence {item.key}" for item in items]
    more = len(names) - NUM_NAMED
    return ", ".join(names[:NUM_NAMED]) + (f" and {more:,} more" if more > 0 else "")
