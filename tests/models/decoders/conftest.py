"""What the tests of every decoder's equations share: a plain loop that tells one caption, against the decoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import pytest
import torch
from torch import Tensor

from captioner.models import Decoder
from captioner.types import Kind, Memory, Segment

NUM_LOCATIONS, NUM_WORDS = 5, 6
LENGTHS = torch.tensor([[6, 4, 1], [4, 3, 0], [2, 2, 2]])

Tell = Callable[[Decoder, Tensor, Sequence[int]], Mapping[str, Tensor]]
"""A decoder's equations: annotation vectors (L, D) and the T words to read, the begin word first, to "logits" (T, V),
"alpha" (T, L) where it attends, and whatever else attention gives, (T, ...), all by name."""


@pytest.fixture
def assert_equations() -> Callable[[Decoder, Tell, float], None]:
    """Compares a decoder with its equations, in double precision and with no weight 0 by chance."""

    @torch.no_grad()
    def compare(decoder: Decoder, tell: Tell, tolerance: float = 1e-9) -> None:
        torch.manual_seed(1)
        decoder = decoder.double().eval()
        for parameter in decoder.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        features = torch.randn(3, NUM_LOCATIONS, decoder.feature_dim, dtype=torch.float64)
        real = torch.arange(NUM_LOCATIONS) < torch.tensor([[5], [3], [1]])
        memory = Memory(features, real, (Segment(Kind.GRID, NUM_LOCATIONS, grid=(1, NUM_LOCATIONS)),))
        tokens = torch.randint(decoder.vocab_size, (3, 3, NUM_WORDS + 1))
        output = decoder(decoder.prepare(memory), tokens, LENGTHS)
        places = output.mask.nonzero(as_tuple=True)
        logits = features.new_zeros(*output.mask.shape, decoder.vocab_size).index_put(places, output.logits)
        found = {"logits": logits, **output.extras}
        if output.alpha is not None:
            found["alpha"] = output.alpha
        for image, sequence in (LENGTHS > 0).nonzero().tolist():
            length = int(LENGTHS[image, sequence])
            told = tell(decoder, features[image, real[image]], tokens[image, sequence, :length].tolist())
            assert told.keys() == found.keys()
            for name, expected in told.items():
                value = found[name][image, sequence, :length]
                if name in ("alpha", "heads"):
                    value = value[..., real[image]]
                torch.testing.assert_close(
                    value, expected, atol=tolerance, rtol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
                )

    return compare
