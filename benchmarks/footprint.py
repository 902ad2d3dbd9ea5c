"""On paper: the memory that a training step takes, by the number of images in a batch.

    python -m benchmarks.footprint

runs steps in bf16 on tensors without values, and adds up what is alive at a time: weights, gradients, Adam's moments,
activations. What a GPU's libraries take beside that (the context, cuDNN's workspaces, gaps between tensors) is about a
gigabyte more. There is no autocast for such tensors, so all weights are in bf16 here, and their copies, gradients and
moments in float32 are counted apart.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.launches import META, scores_as_kernels
from benchmarks.workload import Sizes, as_memory, make_decoder, make_encoder, training_batches
from captioner.losses import CaptionLoss

BATCHES = (16, 32, 64, 128, 256)


class Alive(TorchDispatchMode):
    """Adds up the bytes of the tensors that are alive, as operations make them.

    Attributes:
        now: bytes that were made within it and are alive.
        peak: the most of them at a time.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                storage = leaf.untyped_storage()
                if storage._cdata not in given and storage._cdata not in self.known:
                    self._add(storage)
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        place, num_bytes = storage._cdata, storage.nbytes()

        def forget() -> None:
            self.known.discard(place)
            self.now -= num_bytes

        self.known.add(place)
        self.now += num_bytes
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, forget)


def peak_of(work: Callable[[], Any]) -> int:
    """Bytes at the peak of some work."""
    with Alive() as alive:
        work()
    return alive.peak


def step_bytes(sizes: Sizes, live: bool, fine_tuned: bool = False) -> int:
    """Bytes of a training step on the longest captions that come.

    Args:
        sizes: how large.
        live: whether a CNN is a part of the step; otherwise features are given.
        fine_tuned: whether that CNN is trained, too.
    """
    batch = max(training_batches(sizes), key=lambda batch: int(batch.lengths.sum())).to(META)
    decoder = make_decoder(sizes).to(META, torch.bfloat16)
    parts: list[nn.Module] = [decoder]
    if live:
        encoder = make_encoder(sizes, sizes.fine_tuned_from if fine_tuned else None).to(META, torch.bfloat16)
        parts.append(encoder)

    def step() -> None:
        if live:
            pixels = torch.empty(sizes.num_images, 3, sizes.pixels, sizes.pixels, dtype=torch.uint8, device=META)
            memory = encoder(pixels)
        else:
            shape = (sizes.num_images, sizes.grid**2, sizes.feature_dim)
            memory = as_memory(torch.empty(shape, dtype=torch.bfloat16, device=META), sizes.grid)
        output = decoder(decoder.prepare(memory), batch.tokens, batch.lengths)
        CaptionLoss()(output, batch.tokens[..., 1:]).total.backward()

    with scores_as_kernels():
        peak = peak_of(step)
    weights = [weight for part in parts for weight in part.parameters()]
    trained = sum(weight.numel() for weight in weights if weight.requires_grad)
    whole = sum(weight.numel() for weight in weights)
    return peak - 2 * trained + (4 + 2) * whole + (4 + 8) * trained  # float32 and bf16 copies; gradients and moments


def table(sizes: Sizes, batches: tuple[int, ...] = BATCHES) -> str:
    """Gigabytes by batch size, in Markdown."""
    cases = {
        "features of a cache": {"live": False},
        f"frozen {sizes.network}": {"live": True},
        f"{sizes.network} fine-tuned from {sizes.fine_tuned_from}": {"live": True, "fine_tuned": True},
    }
    lines = [f"| images, {sizes.captions_per_image} captions each | {' | '.join(map(str, batches))} |"]
    lines.append(f"| --- | {' | '.join(['---:'] * len(batches))} |")
    for name, options in cases.items():
        found = [step_bytes(replace(sizes, num_images=number), **options) / 1e9 for number in batches]
        lines.append(f"| {name} | {' | '.join(f'{size:.1f} GB' for size in found)} |")
    return "\n".join(lines)


def main() -> int:
    """Print the table."""
    print(table(Sizes()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
