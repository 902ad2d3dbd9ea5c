"""The decoder of Luong et al. 2015 (arXiv 1508.04025): attention after the LSTM, with the new hidden state."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from captioner.models.attention import Attention, GeneralAttention
from captioner.models.attention.base import precise
from captioner.models.decoders.base import Readout
from captioner.models.decoders.lstm import LSTMDecoder, first_state, lstm_cell, mean_vector, orthogonal
from captioner.types import Attended, Memory, State


class LuongDecoder(LSTMDecoder):
    """An LSTM that looks at the memory after every word, and predicts from what it holds and sees.

        h_t, c_t = LSTM([E y_{t-1}; g_{t-1}], h_{t-1}, c_{t-1})   (with input feeding, section 3.3)
        alpha_t = attention(a_i, h_t),   z_t = sum_i alpha_ti a_i
        g_t = tanh(W_c [z_t; h_t])                                (equation 5; the paper writes h with a tilde)
        p(y_t) = softmax(W_s g_t)                                 (equation 6)

    The first states are two layers with tanh of the mean annotation vector, g_0 is 0; the paper's come from its
    encoder.

    Args:
        feature_dim: D, the size of an annotation vector.
        vocab_size: V, how many words there are.
        attention: makes the scorer from (feature_dim, hidden_dim); general by default, the paper compares several.
        embed_dim: E, the size of a word vector (the paper: 1,000).
        hidden_dim: H, the size of the LSTM and of g (the paper: 1,000, in four layers).
        input_feeding: the LSTM also reads g_{t-1}, so that it knows where it has looked.
        tie_embeddings: see `LSTMDecoder`, like all that follow; embed_dim must be hidden_dim then.
        dropout: on the word vectors and on g_t (the paper: 0.2).
        normalise_features: LayerNorm of the annotation vectors first.
        project_dim: one layer with ReLU over the annotation vectors first.
    """

    attention: Attention

    def __init__(
        self,
        feature_dim: int,
        vocab_size: int,
        attention: Callable[[int, int], Attention] = GeneralAttention,
        embed_dim: int = 512,
        hidden_dim: int = 512,
        input_feeding: bool = True,
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
        self.input_feeding = input_feeding
        fed_dim = hidden_dim if input_feeding else 0
        self.init_hidden = nn.Linear(self.seen_dim, hidden_dim)
        self.init_cell = nn.Linear(self.seen_dim, hidden_dim)
        self.word_gates = nn.Linear(embed_dim, 4 * hidden_dim)
        self.recurrent_gates = nn.Linear(fed_dim + hidden_dim, 4 * hidden_dim, bias=False)  # for [g; h]
        self.combine = nn.Linear(self.seen_dim + hidden_dim, hidden_dim, bias=False)  # W_c
        orthogonal(self.recurrent_gates.weight[:, fed_dim:])

    def init_state(self, memory: Memory, num_sequences: int) -> State:
        """See `Decoder.init_state`."""
        mean = mean_vector(memory)  # (B, D)
        hidden, cell = self.init_hidden(mean).tanh(), precise(self.init_cell(mean).tanh())
        if self.input_feeding:
            return first_state(num_sequences, hidden=hidden, cell=cell, fed=torch.zeros_like(hidden))
        return first_state(num_sequences, hidden=hidden, cell=cell)

    def drive(self, words: Tensor) -> Tensor:
        """See `RecurrentDecoder.drive`: G = 4H, the words' share of the LSTM's gates."""
        return self.word_gates(words)

    def advance(self, drive: Tensor, state: State, memory: Memory) -> tuple[Tensor, Attended, State]:
        """See `RecurrentDecoder.advance`."""
        before = torch.cat((state["fed"], state["hidden"]), dim=-1) if self.input_feeding else state["hidden"]
        hidden, cell = lstm_cell(drive + self.recurrent_gates(before), state["cell"])
        attended = self.attention(hidden, memory, state["step"])
        combined = self.combine(torch.cat((attended.context, hidden.to(attended.context.dtype)), dim=-1)).tanh()
        after = {"hidden": hidden, "cell": cell}
        if self.input_feeding:
            after["fed"] = combined
        return combined, Attended(combined[..., :0], attended.alpha, attended.extras), after

    def predict(self, readout: Readout) -> Tensor:
        """See `RecurrentDecoder.predict`."""
        return self.output(self.drop(readout.hidden))
