"""Show and Tell's decoder against its equations."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from captioner.models import ShowAndTell


def tell(decoder, annotations, words):
    """One caption of one image by the equations; see `Tell`."""
    seen_dim = decoder.seen_dim
    lstm = nn.LSTMCell(seen_dim + decoder.embed_dim, decoder.hidden_dim).double()  # reads [a; E y]
    lstm.weight_ih.data = torch.cat([decoder.image_gates.weight, decoder.word_gates.weight], dim=1)
    lstm.weight_hh.data, lstm.bias_ih.data = decoder.recurrent_gates.weight, decoder.word_gates.bias
    lstm.bias_hh.data.zero_()
    image, blank = annotations.mean(0, keepdim=True), annotations.new_zeros(1, seen_dim)
    states = lstm(torch.cat([image, annotations.new_zeros(1, decoder.embed_dim)], dim=1))
    logits = []
    for word in words:
        seen = image if decoder.every_step else blank
        states = lstm(torch.cat([seen, decoder.embedding.weight[[word]]], dim=1), states)
        logits.append(decoder.output.weight @ states[0][0] + decoder.output.bias)
    return {"logits": torch.stack(logits)}


@pytest.mark.parametrize("options", [{}, {"every_step": True}, {"embed_dim": 8, "tie_embeddings": True}], ids=str)
def test_it_is_the_equations(options, assert_equations):
    torch.manual_seed(0)
    decoder = ShowAndTell(6, 13, **{"embed_dim": 7, "hidden_dim": 8} | options)
    if decoder.tie_embeddings:
        assert decoder.output.weight is decoder.embedding.weight
    assert_equations(decoder, tell)
