"""Up-Down's decoder against its equations."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import nn

from captioner.models import AdditiveAttention, UpDown

WITHOUT_BIAS = functools.partial(AdditiveAttention, attention_dim=9, bias=False)


def lstm_cell(weight_input, weight_hidden, bias):
    """torch's own LSTM with given weights."""
    cell = nn.LSTMCell(weight_input.shape[1], weight_hidden.shape[1]).double()
    cell.weight_ih.data, cell.weight_hh.data, cell.bias_ih.data = weight_input, weight_hidden, bias
    cell.bias_hh.data.zero_()
    return cell


def tell(decoder, annotations, words):
    """One caption of one image by the equations; see `Tell`."""
    scorer, size = decoder.attention, decoder.hidden_dim
    from_told, from_looking = decoder.looking_gates.weight.split(size, dim=1)
    look = lstm_cell(  # reads [h2; mean a; E y]
        torch.cat([from_told, decoder.image_gates.weight, decoder.word_gates.weight], dim=1),
        from_looking,
        decoder.word_gates.bias,
    )
    from_seen_and_looking, from_telling = decoder.telling_gates.weight.split([decoder.seen_dim + size, size], dim=1)
    say = lstm_cell(from_seen_and_looking, from_telling, decoder.telling_gates.bias)  # reads [z; h1]
    looking = telling = (annotations.new_zeros(1, size),) * 2
    logits, alphas = [], []
    for word in words:
        read = torch.cat([telling[0][0], annotations.mean(0), decoder.embedding.weight[word]])
        looking = look(read[None], looking)
        compared = annotations @ scorer.key.weight.T + scorer.query.weight @ looking[0][0]  # (L, A)
        energies = (compared.tanh() @ scorer.energy.weight[0]).exp()
        alpha = energies / energies.sum()
        context = sum(weight * vector for weight, vector in zip(alpha, annotations, strict=True))
        telling = say(torch.cat([context, looking[0][0]])[None], telling)
        logits.append(decoder.output.weight @ telling[0][0] + decoder.output.bias)
        alphas.append(alpha)
    return {"logits": torch.stack(logits), "alpha": torch.stack(alphas)}


@pytest.mark.parametrize("options", [{}, {"embed_dim": 8, "tie_embeddings": True}], ids=str)
def test_it_is_the_equations(options, assert_equations):
    torch.manual_seed(0)
    assert_equations(UpDown(6, 13, WITHOUT_BIAS, **{"embed_dim": 7, "hidden_dim": 8} | options), tell)


def test_it_begins_by_keeping_and_scores_without_bias():
    decoder = UpDown(6, 13, embed_dim=7, hidden_dim=8)
    for bias in (decoder.word_gates.bias, decoder.telling_gates.bias):
        assert bias.tolist() == [0.0] * 8 + [1.0] * 8 + [0.0] * 16
    assert decoder.attention.key.bias is None
