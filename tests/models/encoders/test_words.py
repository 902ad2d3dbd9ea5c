"""The encoder of sentences: padding changes nothing, and each word's vector knows both sides of it."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from captioner.models.encoders import WordEncoder
from captioner.types import Kind

VOCAB_SIZE = 20


def build(cell="lstm", num_layers=1, dropout=0.0) -> WordEncoder:
    torch.manual_seed(0)
    return WordEncoder(VOCAB_SIZE, embed_dim=5, hidden_dim=7, num_layers=num_layers, cell=cell, dropout=dropout).eval()


@pytest.fixture(params=list(itertools.product(["lstm", "gru"], [1, 2])), ids=str)
def encoder(request) -> WordEncoder:
    return build(*request.param)


def sentences(*lengths: int, width: int | None = None) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(1, VOCAB_SIZE, (len(lengths), width or max(lengths)), generator=generator)
    for row, length in enumerate(lengths):
        tokens[row, length:] = 0
    return tokens


def test_a_memory_of_words(encoder):
    memory = encoder(sentences(4, 6, 1))
    assert memory.features.shape == (3, 6, 14) == (3, 6, encoder.feature_dim)
    assert memory.mask.sum(dim=1).tolist() == [4, 6, 1]
    assert memory.kinds == (Kind.WORDS,)
    assert memory.segments[0].length == 6
    assert memory.grid is None
    assert memory.keys is None


def test_batched_equals_one_by_one(encoder):
    """In any order of lengths, and however far the batch is padded."""
    tokens = sentences(2, 6, 1, 4, width=9)
    together = encoder(tokens)
    assert together.features.shape[1] == 9
    for row, length in enumerate((2, 6, 1, 4)):
        alone = encoder(tokens[row : row + 1, :length])
        torch.testing.assert_close(together.features[row, :length], alone.features[0])
        assert not together.features[row, length:].any()


def test_a_word_is_known_from_both_sides(encoder):
    """The forward half changes with the words up to it, the backward half with those from it on."""
    one = sentences(6)
    other = one.clone()
    other[0, 2] = one[0, 2] % (VOCAB_SIZE - 1) + 1
    changed = (encoder(one).features - encoder(other).features)[0].abs() > 1e-7
    forwards, backwards = changed[:, :7].any(dim=1).tolist(), changed[:, 7:].any(dim=1).tolist()
    if encoder.num_layers == 1:
        assert forwards == [False, False, True, True, True, True]
        assert backwards == [True, True, True, False, False, False]
    else:  # the second layer reads both directions of the first
        assert all(forwards) and all(backwards)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_it_is_torch_s_own_network_read_twice(cell):
    """Each half is a one-way network of its own, the second of the sentence turned round."""
    encoder = build(cell)
    tokens = sentences(5)
    halves = []
    for suffix, order in (("", slice(None)), ("_reverse", slice(None, None, -1))):
        network = {"lstm": nn.LSTM, "gru": nn.GRU}[cell](5, 7, batch_first=True)
        network.load_state_dict(
            {name: encoder.network.state_dict()[f"{name}{suffix}"] for name in network.state_dict()}
        )
        words = encoder.embedding(tokens)[0].tolist()[order]
        states, _ = network(torch.tensor([words]))
        halves.append(torch.tensor(states[0].tolist()[order]))
    torch.testing.assert_close(encoder(tokens).features[0], torch.cat(halves, dim=1), atol=1e-6, rtol=1e-5)


def test_everything_is_trained_and_padding_stays_zero(encoder):
    encoder.train()
    encoder(sentences(3, 5)).features.square().sum().backward()
    assert not encoder.frozen
    assert all(parameter.grad.abs().sum() > 0 for parameter in encoder.parameters())
    assert not encoder.embedding.weight[0].any()
    assert not encoder.embedding.weight.grad[0].any()


@pytest.mark.parametrize("num_layers", [1, 2])
def test_dropout_is_of_training_alone(num_layers):
    encoder = build(num_layers=num_layers, dropout=0.5)
    tokens = sentences(5)
    assert torch.equal(encoder(tokens).features, encoder(tokens).features)
    encoder.train()
    assert (encoder(tokens).features == 0).float().mean() > 0.2
    assert not torch.equal(encoder(tokens).features, encoder(tokens).features)


def test_an_unknown_cell_is_refused():
    with pytest.raises(ValueError, match="cell 'rnn' is not one of lstm, gru"):
        build("rnn")
