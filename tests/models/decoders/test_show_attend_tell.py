"""Show, Attend and Tell's decoder against its equations, one caption and one location at a time."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import nn

from captioner.models import AdditiveAttention, ShowAttendTell

FEATURE_DIM, VOCAB_SIZE = 6, 13
SMALL = {"attention": functools.partial(AdditiveAttention, attention_dim=7), "embed_dim": 8, "hidden_dim": 8}
OPTIONS = {
    "paper": {"output_tanh": False, "gated_output": False},
    "authors": {},
    "sizes": {"embed_dim": 9, "hidden_dim": 10},
    "no gate": {"gate": "none"},
    "vector gate": {"gate": "vector"},
    "vector gate, output not gated": {"gate": "vector", "gated_output": False},
    "plain output": {"deep_output": False},
    "plain output, not square": {"deep_output": False, "embed_dim": 9},
    "tied": {"tie_embeddings": True},
    "tied, sizes": {"tie_embeddings": True, "hidden_dim": 10},
    "tied, plain output": {"tie_embeddings": True, "deep_output": False},
    "normalised": {"normalise_features": True},
    "projected": {"project_dim": 11},
    "shipped": {"gate": "vector", "tie_embeddings": True, "normalise_features": True, "project_dim": 8},
}


def build(options: dict) -> ShowAttendTell:
    torch.manual_seed(0)
    return ShowAttendTell(FEATURE_DIM, VOCAB_SIZE, **SMALL | options).eval()


def lstm_cell(decoder, seen_dim):
    """torch's own LSTM, which reads [E y; z], with the decoder's weights."""
    cell = nn.LSTMCell(decoder.embed_dim + seen_dim, decoder.hidden_dim).double()
    from_context, from_hidden = decoder.recurrent_gates.weight.split([seen_dim, decoder.hidden_dim], dim=1)
    cell.weight_ih.data = torch.cat([decoder.word_gates.weight, from_context], dim=1)
    cell.weight_hh.data = from_hidden
    cell.bias_ih.data = decoder.word_gates.bias
    cell.bias_hh.data.zero_()
    return cell


def tell(decoder, annotations, words):
    """One caption of one image by the equations; see `Tell`."""
    if decoder.normalise_features:
        centred = annotations - annotations.mean(1, keepdim=True)
        annotations = centred / (centred.square().mean(1, keepdim=True) + decoder.norm.eps).sqrt()
        annotations = annotations * decoder.norm.weight + decoder.norm.bias
    if decoder.project_dim:
        annotations = (annotations @ decoder.projection.weight.T + decoder.projection.bias).clamp(min=0)
    lstm, scorer = lstm_cell(decoder, annotations.shape[1]), decoder.attention
    mean = annotations.mean(0)
    hidden = (decoder.init_hidden.weight @ mean + decoder.init_hidden.bias).tanh()
    cell = (decoder.init_cell.weight @ mean + decoder.init_cell.bias).tanh()
    logits, alphas = [], []
    for word in words:
        compared = annotations @ scorer.key.weight.T + scorer.key.bias + scorer.query.weight @ hidden  # (L, A)
        energies = (compared.tanh() @ scorer.energy.weight[0]).exp()
        alpha = energies / energies.sum()
        context = sum(weight * vector for weight, vector in zip(alpha, annotations, strict=True))
        gated = context
        if decoder.gate != "none":
            gated = context / (1 + (-(decoder.beta.weight @ hidden + decoder.beta.bias)).exp())
        embedded = decoder.embedding.weight[word]
        hidden, cell = lstm(torch.cat([embedded, gated])[None], (hidden[None], cell[None]))
        hidden, cell = hidden[0], cell[0]
        summary = hidden
        if decoder.deep_output:
            seen = gated if decoder.gated_output else context
            summary = embedded + decoder.output_hidden.weight @ hidden + decoder.output_hidden.bias
            summary = summary + decoder.output_context.weight @ seen
            summary = summary.tanh() if decoder.output_tanh else summary
        matrix = decoder.embedding.weight if decoder.tie_embeddings else decoder.output.weight
        logits.append(matrix @ summary + decoder.output.bias)
        alphas.append(alpha)
    return {"logits": torch.stack(logits), "alpha": torch.stack(alphas)}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_it_is_the_equations(options, assert_equations):
    assert_equations(build(options), tell)


def test_tied_embeddings_are_one_matrix():
    tied, loose = build({"tie_embeddings": True}), build({})
    assert tied.output.weight is tied.embedding.weight
    count = [sum(parameter.numel() for parameter in decoder.parameters()) for decoder in (tied, loose)]
    assert count[1] - count[0] == VOCAB_SIZE * SMALL["embed_dim"]


def test_an_unknown_gate_is_refused_with_the_choices():
    with pytest.raises(ValueError, match="'sigmoid' is not one of none, scalar, vector"):
        ShowAttendTell(FEATURE_DIM, VOCAB_SIZE, gate="sigmoid")
