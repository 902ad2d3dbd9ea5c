"""The decoder of Knowing When to Look (Lu et al. 2017, arXiv 1612.01887): attention with a visual sentinel."""

from __future__ import annotations

from collections.abc import Callable

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


class AdaptiveDecoder(LSTMDecoder):
    """An LSTM that decides for every word how much it needs to look.

        v = relu(W_b mean_i a_i),   x_t = [E y_{t-1}; v]                        (equations 15 and 16)
        h_t, m_t = LSTM(x_t, h_{t-1}, m_{t-1})
        s_t = sigmoid(W_x x_t + W_h h_{t-1}) * tanh(m_t)                         (equations 9 and 10: the sentinel)
        [alpha_t; beta_t] = softmax([attention(a_i, h_t); attention(s_t, h_t)])  (equation 12)
        z_t = sum_i alpha_ti a_i + beta_t s_t                                    (equation 11)
        p(y_t) = softmax(W_p(z_t + h_t))                                         (equation 13)

    A row of alpha sums to 1 - beta_t; beta_t is exported as the sentinel's weight. Where the paper has D = H, here one
    layer takes s_t to the size of an annotation vector (with it the scorer's projection is the paper's W_s), and one
    takes z_t to H.

    Args:
        feature_dim: D, the size of an annotation vector.
        vocab_size: V, how many words there are.
        attention: makes the scorer from (feature_dim, hidden_dim); the paper: additive.
        embed_dim: E, the size of a word vector (the paper: 512).
        hidden_dim: H, the size of the LSTM (the paper: 512).
        tie_embeddings: see `LSTMDecoder`, like all that follow; embed_dim must be hidden_dim then.
        dropout: on the word vectors and before the output.
        normalise_features: LayerNorm of the annotation vectors first.
        project_dim: one layer with ReLU over the annotation vectors first, the paper's equation 14 (512).
    """

    attention: Attention

    def __init__(
        self,
        feature_dim: int,
        vocab_size: int,
        attention: Callable[[int, int], Attention] = AdditiveAttention,
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
        # Five gates: the LSTM's four and the sentinel's.
        self.word_gates = nn.Linear(embed_dim, 5 * hidden_dim)
        self.image = nn.Linear(self.seen_dim, embed_dim)  # W_b
        self.image_gates = nn.Linear(embed_dim, 5 * hidden_dim, bias=False)
        self.recurrent_gates = nn.Linear(hidden_dim, 5 * hidden_dim, bias=False)
        self.sentinel = nn.Linear(hidden_dim, self.seen_dim)
        self.output_context = nn.Linear(self.seen_dim, hidden_dim, bias=False)
        orthogonal(self.recurrent_gates.weight[: 4 * hidden_dim])

    def prepare(self, memory: Memory) -> Memory:
        """See `Decoder.prepare`: a note holds what v sends to the gates at every step."""
        memory = super().prepare(memory)
        return memory.with_note(IMAGE_GATES, self.image_gates(self.image(mean_vector(memory)).relu()))  # (B, 5H)

    def init_state(self, memory: Memory, num_sequences: int) -> State:
        """See `Decoder.init_state`: zeros."""
        zeros = memory.features.new_zeros(len(memory.features), self.hidden_dim)
        return first_state(num_sequences, hidden=zeros, cell=precise(zeros))

    def drive(self, words: Tensor) -> Tensor:
        """See `RecurrentDecoder.drive`: G = 5H, the words' share of all gates."""
        return self.word_gates(words)

    def advance(self, drive: Tensor, state: State, memory: Memory) -> tuple[Tensor, Attended, State]:
        """See `RecurrentDecoder.advance`."""
        gates = drive + memory.note(IMAGE_GATES)[:, None] + self.recurrent_gates(state["hidden"])  # (B, K, 5H)
        lstm_gates, sentinel_gate = gates.split((4 * self.hidden_dim, self.hidden_dim), dim=-1)
        hidden, cell = lstm_cell(lstm_gates, state["cell"])
        sentinel = self.sentinel((sentinel_gate.sigmoid() * cell.tanh()).to(gates.dtype))  # (B, K, D)
        attended = self.attention(hidden, memory, state["step"], sentinel)
        return hidden, attended, {"hidden": hidden, "cell": cell}

    def predict(self, readout: Readout) -> Tensor:
        """See `RecurrentDecoder.predict`."""
        return self.output(self.drop(readout.hidden + self.output_context(readout.context)))
