"""The adaptive decoder against its equations, the sentinel's first of all."""

from __future__ import annotations

import functools

import pytest
import torch

from captioner.models import AdaptiveDecoder, AdditiveAttention
from captioner.types import Memory

ADDITIVE = functools.partial(AdditiveAttention, attention_dim=9)


def tell(decoder, annotations, words):
    """One caption of one image by the equations; see `Tell`."""
    scorer = decoder.attention
    # x_t = [E y; v]: the columns of the five gates' matrices for either
    from_input = torch.cat([decoder.word_gates.weight, decoder.image_gates.weight], dim=1)
    image = (decoder.image.weight @ annotations.mean(0) + decoder.image.bias).clamp(min=0)
    hidden = memory_cell = annotations.new_zeros(decoder.hidden_dim)
    told = {"logits": [], "alpha": [], "sentinel": []}
    for word in words:
        read = torch.cat([decoder.embedding.weight[word], image])
        gates = from_input @ read + decoder.word_gates.bias + decoder.recurrent_gates.weight @ hidden
        write, keep, new, show, sentinel_gate = gates.split(decoder.hidden_dim)
        memory_cell = keep.sigmoid() * memory_cell + write.sigmoid() * new.tanh()
        hidden = show.sigmoid() * memory_cell.tanh()
        sentinel = decoder.sentinel.weight @ (sentinel_gate.sigmoid() * memory_cell.tanh()) + decoder.sentinel.bias
        energies = []
        for vector in (*annotations, sentinel):
            compared = scorer.key.weight @ vector + scorer.key.bias + scorer.query.weight @ hidden
            energies.append((scorer.energy.weight[0] @ compared.tanh()).exp())
        weights = torch.stack(energies) / sum(energies)
        seen = sum(weight * vector for weight, vector in zip(weights, (*annotations, sentinel), strict=True))
        logits = decoder.output.weight @ (hidden + decoder.output_context.weight @ seen) + decoder.output.bias
        for name, value in (("logits", logits), ("alpha", weights[:-1]), ("sentinel", weights[-1])):
            told[name].append(value)
    return {name: torch.stack(values) for name, values in told.items()}


@pytest.mark.parametrize("options", [{}, {"embed_dim": 8, "tie_embeddings": True}], ids=str)
def test_it_is_the_equations(options, assert_equations):
    torch.manual_seed(0)
    assert_equations(AdaptiveDecoder(6, 13, ADDITIVE, **{"embed_dim": 7, "hidden_dim": 8} | options), tell)


@torch.no_grad()
def test_a_sentinel_that_outweighs_the_image_leaves_it_unseen():
    torch.manual_seed(0)
    decoder = AdaptiveDecoder(6, 13, ADDITIVE, embed_dim=7, hidden_dim=8).double().eval()
    decoder.attention.energy.weight.fill_(50.0)
    decoder.attention.key.weight.fill_(1.0)  # large numbers score high: those of the sentinel, not those of the image
    decoder.sentinel.bias.fill_(50.0)
    memory = decoder.prepare(Memory.from_grid(torch.full((2, 6, 2, 2), -1.0, dtype=torch.float64)))
    output = decoder(memory, torch.randint(13, (2, 3, 5)), torch.tensor([[4, 2, 0], [3, 3, 1]]))
    torch.testing.assert_close(output.extras["sentinel"], output.mask.double())
    torch.testing.assert_close(output.alpha, torch.zeros_like(output.alpha))
