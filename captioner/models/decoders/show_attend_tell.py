"""The LSTM decoder with visual attention of Show, Attend and Tell (Xu et al. 2015, arXiv 1502.03044).

Section and equation numbers are the paper's. Every choice is an argument; the paper's value is named beside it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from captioner.models.attention import AdditiveAttention, Attention
from captioner.models.attention.base import precise
from captioner.models.decoders.base import Readout
from captioner.models.decoders.lstm import LSTMDecoder, first_state, lstm_cell, mean_vector, orthogonal
from captioner.types import Attended, Memory, State

GATES = ("none", "scalar", "vector")


class ShowAttendTell(LSTMDecoder):
    """An LSTM that looks at the memory before every word.

    With annotation vectors a_i, word embeddings E y, hidden states h:

        e_ti = attention(a_i, h_{t-1}),   alpha_t = softmax(e_t)              (equations 4, 5)
        z_t = beta_t * sum_i alpha_ti a_i,   beta_t = sigmoid(f_beta(h_{t-1}))   (equation 13, section 4.2.1)
        h_t, c_t = LSTM([E y_{t-1}; z_t], h_{t-1}, c_{t-1})                    (equations 1 to 3)
        h_0 = tanh(f_h(mean_i a_i)),   c_0 = tanh(f_c(mean_i a_i))             (section 3.1.2)
        p(y_t) = softmax(L_o(E y_{t-1} + L_h h_t + L_z z_t))                   (equation 7)

    The defaults are the authors' code where it says more than the paper.

    Args:
        feature_dim: D, the size of an annotation vector.
        vocab_size: V, how many words there are.
        attention: makes the scorer from (feature_dim, hidden_dim); the paper: additive.
        embed_dim: E, the size of a word vector; the paper does not say (the authors' code: 512).
        hidden_dim: H, the size of the LSTM (the authors' code: 1,800 for COCO).
        gate: beta_t: "scalar" in the paper, "vector" (one per feature) in many others, or "none".
        deep_output: the sum of equation 7, as in the paper; otherwise logits = L_o(h_t).
        output_tanh: tanh before L_o, as in the authors' code; the paper has none.
        gated_output: the output sees the gated z_t, as in the authors' code; otherwise the mean before the gate.
        tie_embeddings: L_o and E are one matrix (Press and Wolf 2017, arXiv 1608.05859); the paper: no. With
            it, and without a deep output, embed_dim must be hidden_dim.
        dropout: on the word vectors, on h_t before the output and before L_o (the authors' code: 0.5).
        normalise_features: LayerNorm of the annotation vectors first; the paper: no.
        project_dim: the annotation vectors first go through one layer with ReLU and dropout to this size, which takes
            D's place from there on (as Rennie et al. 2017, arXiv 1612.00563, embed theirs); the paper: None.

    Raises:
        ValueError: an unknown gate, or tied embeddings that do not fit.
    """

    attention: Attention

    def __init__(
        self,
        feature_dim: int,
        vocab_size: int,
        attention: Callable[[int, int], Attention] = AdditiveAttention,
        embed_dim: int = 512,
        hidden_dim: int = 512,
        gate: Literal["none", "scalar", "vector"] = "scalar",
        deep_output: bool = True,
        output_tanh: bool = True,
        gated_output: bool = True,
        tie_embeddings: bool = False,
        dropout: float = 0.5,
        normalise_features: bool = False,
        project_dim: int | None = None,
    ) -> None:
        if gate not in GATES:
            raise ValueError(f"gate {gate!r} is not one of {', '.join(GATES)}")
        super().__init__(
            feature_dim,
            vocab_size,
            attention,
            embed_dim=embed_dim,
            hidden_dim=hidden_dim,
            output_dim=embed_dim if deep_output else hidden_dim,
            tie_embeddings=tie_embeddings,
            dropout=dropout,
            normalise_features=normalise_features,
            project_dim=project_dim,
        )
        self.gate = gate
        self.deep_output = deep_output
        self.output_tanh = output_tanh
        self.gated_output = gated_output

        seen_dim = self.seen_dim
        self.init_hidden = nn.Linear(seen_dim, hidden_dim)
        self.init_cell = nn.Linear(seen_dim, hidden_dim)
        self.beta = nn.Linear(hidden_dim, seen_dim if gate == "vector" else 1) if gate != "none" else None
        self.word_gates = nn.Linear(embed_dim, 4 * hidden_dim)  # the LSTM's matrix for E y, with its bias
        self.recurrent_gates = nn.Linear(seen_dim + hidden_dim, 4 * hidden_dim, bias=False)  # for [z; h]
        self.output_hidden = nn.Linear(hidden_dim, embed_dim) if deep_output else None
        self.output_context = nn.Linear(seen_dim, embed_dim, bias=False) if deep_output else None
        orthogonal(self.recurrent_gates.weight[:, seen_dim:])

    def init_state(self, memory: Memory, num_sequences: int) -> State:
        """See `Decoder.init_state`: two layers with tanh of the mean annotation vector."""
        mean = mean_vector(memory)  # (B, D)
        return first_state(
            num_sequences, hidden=self.init_hidden(mean).tanh(), cell=precise(self.init_cell(mean).tanh())
        )

    def drive(self, words: Tensor) -> Tensor:
        """See `RecurrentDecoder.drive`: G = 4H, the words' share of the LSTM's gates."""
        return self.word_gates(words)

    def advance(self, drive: Tensor, state: State, memory: Memory) -> tuple[Tensor, Attended, State]:
        """See `RecurrentDecoder.advance`."""
        attended = self.attention(state["hidden"], memory, state["step"])
        context = gated = attended.context  # (B, K, D)
        if self.beta is not None:
            gated = self.beta(state["hidden"]).sigmoid() * context
        gates = drive + self.recurrent_gates(torch.cat((gated, state["hidden"].to(gated.dtype)), dim=-1))  # (B, K, 4H)
        hidden, cell = lstm_cell(gates, state["cell"])
        seen = gated if self.gated_output else context
        return hidden, Attended(seen, attended.alpha, attended.extras), {"hidden": hidden, "cell": cell}

    def predict(self, readout: Readout) -> Tensor:
        """See `RecurrentDecoder.predict`."""
        summary = self.drop(readout.hidden)
        if self.output_hidden is not None and self.output_context is not None:  # the deep output
            summary = readout.word + self.output_hidden(summary) + self.output_context(readout.context)
            if self.output_tanh:
                summary = summary.tanh()
            summary = self.drop(summary)
        return self.output(summary)
