"""The two-LSTM decoder of Bottom-Up and Top-Down Attention (Anderson et al. 2018, arXiv 1707.07998)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from captioner.models.attention import AdditiveAttention, Attention
from captioner.models.attention.base import precise
from captioner.models.decoders.base import Readout
from captioner.models.decoders.lstm import (
    IMAGE_GATES,
    LSTMDecoder,
    first_state,
    lstm_cell,
    mean_vector,
    orthogonal,
)
from captioner.types import Attended, Memory, State


def additive_without_bias(feature_dim: int, query_dim: int) -> AdditiveAttention:
    """Up-Down's scorer, w_a . tanh(W_va v_i + W_ha h) (equation 3)."""
    return AdditiveAttention(feature_dim, query_dim, bias=False)


class UpDown(LSTMDecoder):
    """One LSTM decides where to look, a second one what to say.

        h1_t = LSTM_1([h2_{t-1}; mean_i a_i; E y_{t-1}], h1_{t-1})         (equation 2)
        alpha_t = attention(a_i, h1_t),   z_t = sum_i alpha_ti a_i          (equations 3 to 5)
        h2_t = LSTM_2([z_t; h1_t], h2_{t-1})                                (equation 6)
        p(y_t) = softmax(W_p h2_t)                                          (equation 7)

    First states are 0, and the forget gates' biases begin at 1, as in the authors' code.

    Args:
        feature_dim: D, the size of an annotation vector.
        vocab_size: V, how many words there are.
        attention: makes the scorer from (feature_dim, hidden_dim); the paper: additive without biases, of size 512.
        embed_dim: E, the size of a word vector (the paper: 1,000).
        hidden_dim: H, the size of each LSTM (the paper: 1,000).
        tie_embeddings: see `LSTMDecoder`, like all that follow; embed_dim must be hidden_dim then.
        dropout: on the word vectors and on h2_t before the output.
        normalise_features: LayerNorm of the annotation vectors first.
        project_dim: one layer with ReLU over the annotation vectors first.
    """

    attention: Attention

    def __init__(
        self,
        feature_dim: int,
        vocab_size: int,
        attention: Callable[[int, int], Attention] = additive_without_bias,
        embed_dim: int = 512,
        hidden_dim: int = 512,
        tie_embeddings: bool = False,
        dropout: float = 0.5,
        normalise_features: bool = False,
        project_dim: int | None = None,
    ) -> None:
        super().__init__(
            feature_dim,
            vocab_size,
            attention,
            embed_dim=embed_dim,
            hidden_dim=hidden_dim,
            output_dim=hidden_dim,
            tie_embeddings=tie_embeddings,
            dropout=dropout,
            normalise_features=normalise_features,
            project_dim=project_dim,
        )
        self.word_gates = nn.Linear(embed_dim, 4 * hidden_dim)
        self.image_gates = nn.Linear(self.seen_dim, 4 * hidden_dim, bias=False)
        self.looking_gates = nn.Linear(2 * hidden_dim, 4 * hidden_dim, bias=False)  # for [h2; h1]
        self.telling_gates = nn.Linear(self.seen_dim + 2 * hidden_dim, 4 * hidden_dim)  # for [z; h1; h2]
        for bias in (self.word_gates.bias, self.telling_gates.bias):
            nn.init.zeros_(bias)
            nn.init.ones_(bias.data[hidden_dim : 2 * hidden_dim])  # keep
        orthogonal(self.looking_gates.weight[:, hidden_dim:])
        orthogonal(self.telling_gates.weight[:, self.seen_dim + hidden_dim :])

    def prepare(self, memory: Memory) -> Memory:
        """See `Decoder.prepare`: a note holds what the mean annotation vector sends to the gates at every step."""
        memory = super().prepare(memory)
        return memory.with_note(IMAGE_GATES, self.image_gates(mean_vector(memory)))  # (B, 4H)

    def init_state(self, memory: Memory, num_sequences: int) -> State:
        """See `Decoder.init_state`: zeros."""
        zeros = memory.features.new_zeros(len(memory.features), self.hidden_dim)
        cell = precise(zeros)
        return first_state(
            num_sequences, looking_hidden=zeros, looking_cell=cell, telling_hidden=zeros, telling_cell=cell
        )

    def drive(self, words: Tensor) -> Tensor:
        """See `RecurrentDecoder.drive`: G = 4H, the words' share of the first LSTM's gates."""
        return self.word_gates(words)

    def advance(self, drive: Tensor, state: State, memory: Memory) -> tuple[Tensor, Attended, State]:
        """See `RecurrentDecoder.advance`."""
        told = state["telling_hidden"]
        before = self.looking_gates(torch.cat((told, state["looking_hidden"]), dim=-1))
        looking, looking_cell = lstm_cell(drive + memory.note(IMAGE_GATES)[:, None] + before, state["looking_cell"])
        attended = self.attention(looking, memory, state["step"])
        seen = attended.context  # (B, K, D)
        gates = self.telling_gates(torch.cat((seen, looking.to(seen.dtype), told.to(seen.dtype)), dim=-1))
        telling, telling_cell = lstm_cell(gates, state["telling_cell"])
        after = {
            "looking_hidden": looking,
            "looking_cell": looking_cell,
            "telling_hidden": telling,
            "telling_cell": telling_cell,
        }
        return telling, Attended(telling[..., :0], attended.alpha, attended.extras), after

    def predict(self, readout: Readout) -> Tensor:
        """See `RecurrentDecoder.predict`."""
        return self.output(self.drop(readout.hidden))
