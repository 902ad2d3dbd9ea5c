"""A model as small as can be, and two images to learn."""

from __future__ import annotations

import torch
from torch import nn

from captioner.decoding import Rules, beam_search, greedy_search
from captioner.models import CaptionModel, Encoder
from captioner.types import Memory

PAD, BOS, EOS, UNK = range(4)


class Patches(Encoder):
    """Patches of 16 x 16 pixels, each through one layer."""

    def __init__(self, feature_dim: int = 16) -> None:
        super().__init__()
        self.feature_dim = feature_dim
        self.layer = nn.Conv2d(3, feature_dim, 16, stride=16)

    def forward(self, pixels: torch.Tensor) -> Memory:
        return Memory.from_grid(self.layer(pixels.to(self.layer.weight.dtype) / 255))


def two_images() -> torch.Tensor:
    """A picture that is rather red, and one that is rather blue."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(100, (2, 3, 64, 64), generator=generator)
    pixels[0, 0] += 150
    pixels[1, 2] += 150
    return pixels.to(torch.uint8)


def captions_of(model: CaptionModel, source, beam_size: int | None = None) -> list[list[int]]:
    """What the model says by itself, greedily or by a beam."""
    model.eval()
    with torch.no_grad():
        memory = model.encode(source)
        state = model.decoder.init_state(memory, 1)
        rules = Rules(BOS, EOS, never=(PAD, BOS, UNK), max_length=10)

        def step(tokens, state):
            return model.decoder.step(tokens, state, memory)

        if beam_size is None:
            return [found[0].tokens for found in greedy_search(step, state, rules).hypotheses()]
        return [found[0].tokens for found in beam_search(step, state, rules, beam_size=beam_size).hypotheses()]
