"""Luong's decoder against its equations."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from captioner.models import LuongDecoder
from captioner.types import Memory


def tell(decoder, annotations, words):
    """One caption of one image by the equations; see `Tell`."""
    hidden_dim = decoder.hidden_dim
    fed_dim = hidden_dim if decoder.input_feeding else 0
    lstm = nn.LSTMCell(decoder.embed_dim + fed_dim, hidden_dim).double()  # reads [E y; g]
    from_fed, lstm.weight_hh.data = decoder.recurrent_gates.weight.split([fed_dim, hidden_dim], dim=1)
    lstm.weight_ih.data = torch.cat([decoder.word_gates.weight, from_fed], dim=1)
    lstm.bias_ih.data = decoder.word_gates.bias
    lstm.bias_hh.data.zero_()
    mean = annotations.mean(0)
    hidden = (decoder.init_hidden.weight @ mean + decoder.init_hidden.bias).tanh()
    cell = (decoder.init_cell.weight @ mean + decoder.init_cell.bias).tanh()
    combined = annotations.new_zeros(hidden_dim)
    logits, alphas = [], []
    for word in words:
        read = [decoder.embedding.weight[word]] + ([combined] if decoder.input_feeding else [])
        hidden, cell = (after[0] for after in lstm(torch.cat(read)[None], (hidden[None], cell[None])))
        energies = torch.stack([hidden @ decoder.attention.key.weight @ vector for vector in annotations]).exp()
        alpha = energies / energies.sum()
        context = sum(weight * vector for weight, vector in zip(alpha, annotations, strict=True))
        combined = (decoder.combine.weight @ torch.cat([context, hidden])).tanh()
        logits.append(decoder.output.weight @ combined + decoder.output.bias)
        alphas.append(alpha)
    return {"logits": torch.stack(logits), "alpha": torch.stack(alphas)}


@pytest.mark.parametrize("input_feeding", [True, False])
def test_it_is_the_equations(input_feeding, assert_equations):
    torch.manual_seed(0)
    assert_equations(LuongDecoder(6, 13, embed_dim=7, hidden_dim=8, input_feeding=input_feeding), tell)


@pytest.mark.parametrize("input_feeding", [True, False])
def test_only_input_feeding_carries_what_was_seen(input_feeding):
    decoder = LuongDecoder(6, 13, embed_dim=7, hidden_dim=8, input_feeding=input_feeding).eval()
    memory = decoder.prepare(Memory.from_grid(torch.randn(1, 6, 2, 2)))
    start = decoder.init_state(memory, 1)
    elsewhere = replace(memory, features=memory.features.flip(2))  # another look, the same start
    states = [decoder.step(torch.ones(1, 1, dtype=torch.long), start, seen)[1] for seen in (memory, elsewhere)]
    logits = [decoder.step(torch.ones(1, 1, dtype=torch.long), state, memory)[0] for state in states]
    assert torch.equal(*logits) != input_feeding
