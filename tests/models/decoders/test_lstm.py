"""What LSTM decoders share: the cell, the first state, and the mean of what is real."""

from __future__ import annotations

import torch
from torch import nn

from captioner.models.decoders.lstm import first_state, lstm_cell, mean_vector, orthogonal
from captioner.types import Memory


@torch.no_grad()
def test_the_cell_is_torchs():
    """Whose gates come in the same order: input, forget, cell, output."""
    torch.manual_seed(0)
    cell = nn.LSTMCell(3, 5).double()
    given, hidden, memory = (torch.randn(6, size).double() for size in (3, 5, 5))
    gates = given @ cell.weight_ih.T + cell.bias_ih + hidden @ cell.weight_hh.T + cell.bias_hh
    found = lstm_cell(gates.view(2, 3, 20), memory.view(2, 3, 5))
    for ours, torchs in zip(found, cell(given, (hidden, memory)), strict=True):
        torch.testing.assert_close(ours.flatten(0, 1), torchs)


def test_every_sequence_of_an_image_begins_alike():
    vectors = torch.arange(6.0).view(2, 3)
    state = first_state(4, hidden=vectors, cell=-vectors)
    assert state.keys() == {"hidden", "cell", "step"}
    assert state["step"].tolist() == [[0] * 4] * 2
    assert torch.equal(state["hidden"], vectors[:, None].expand(2, 4, 3))
    assert torch.equal(state["cell"], -state["hidden"])


def test_padding_is_not_in_the_mean():
    features = torch.tensor([[[1.0, 2], [3, 4], [100, 100]], [[5, 6], [9, 9], [9, 9]]])
    mask = torch.tensor([[True, True, False], [True, False, False]])
    assert mean_vector(Memory.from_words(features, mask)).tolist() == [[2, 3], [5, 6]]


def test_half_precision_counts_right():
    """bf16 has no 441; the sum of as many ones divided by 440 would be 1.0078."""
    features = torch.ones(1, 441, 3, dtype=torch.bfloat16)
    mean = mean_vector(Memory.from_words(features, torch.ones(1, 441, dtype=torch.bool)))
    assert mean.tolist() == [[1, 1, 1]]
    assert mean.dtype == torch.bfloat16


def test_recurrent_matrices_are_orthogonal_gate_by_gate():
    weight = torch.zeros(4 * 5, 7 + 5)  # (4H, D + H): the recurrent part is the last H columns
    recurrent = weight[:, 7:]
    orthogonal(recurrent)
    for gate in recurrent.chunk(4):
        torch.testing.assert_close(gate @ gate.T, torch.eye(5), atol=1e-5, rtol=0)
