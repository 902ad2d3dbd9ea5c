"""The LSTM decoder with visual attention of Show, Attend and Tell (Xu et al. 2015, arXiv 1502.03044).

Section and equation numbers are the paper's. Every choice is an argument; the paper's value is named beside it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from captioner.models.attention import AdditiveAttention, Attention
from captioner.models.decoders.base import Readout, RecurrentDecoder
from captioner.types import Memory, State

GATES = ("none", "scalar", "vector")


class ShowAttendTell(RecurrentDecoder):
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
        super().__init__()
        if gate not in GATES:
            raise ValueError(f"gate {gate!r} is not one of {', '.join(GATES)}")
        output_dim = embed_dim if deep_output else hidden_dim
        if tie_embeddings and output_dim != embed_dim:
            raise ValueError(
                f"tied embeddings without a deep output need embed_dim {embed_dim} = hidden_dim {hidden_dim}"
            )
        self.feature_dim = feature_dim
        self.vocab_size = vocab_size
        self.embed_dim = embed_dim
        self.hidden_dim = hidden_dim
        self.gate = gate
        self.deep_output = deep_output
        self.output_tanh = output_tanh
        self.gated_output = gated_output
        self.tie_embeddings = tie_embeddings
        self.dropout = dropout
        self.normalise_features = normalise_features
        self.project_dim = project_dim

        seen_dim = project_dim or feature_dim  # of the vectors that attention sees
        self.norm = nn.LayerNorm(feature_dim) if normalise_features else None
        self.projection = nn.Linear(feature_dim, project_dim) if project_dim else None
        self.embedding = nn.Embedding(vocab_size, embed_dim)
        self.attention = attention(seen_dim, hidden_dim)
        self.init_hidden = nn.Linear(seen_dim, hidden_dim)
        self.init_cell = nn.Linear(seen_dim, hidden_dim)
        self.beta = nn.Linear(hidden_dim, seen_dim if gate == "vector" else 1) if gate != "none" else None
        self.word_gates = nn.Linear(embed_dim, 4 * hidden_dim)  # the LSTM's matrix for E y, with its bias
        self.recurrent_gates = nn.Linear(seen_dim + hidden_dim, 4 * hidden_dim, bias=False)  # for [z; h]
        self.output_hidden = nn.Linear(hidden_dim, embed_dim) if deep_output else None
        self.output_context = nn.Linear(seen_dim, embed_dim, bias=False) if deep_output else None
        self.output = nn.Linear(output_dim, vocab_size)
        self.drop = nn.Dropout(dropout)
        self._reset(seen_dim)

    def _reset(self, seen_dim: int) -> None:
        nn.init.normal_(self.embedding.weight, std=self.embed_dim**-0.5)
        nn.init.zeros_(self.output.bias)
        for block in self.recurrent_gates.weight.data[:, seen_dim:].chunk(4):
            nn.init.orthogonal_(block)  # as the authors' code does
        if self.tie_embeddings:
            self.output.weight = self.embedding.weight

    def prepare(self, memory: Memory) -> Memory:
        """See `Decoder.prepare`."""
        features = memory.features
        if self.norm is not None:
            features = self.norm(features)
        if self.projection is not None:
            features = self.drop(self.projection(features).relu())
        keys = self.attention.project(features)
        return replace(memory, features=features.to(keys.dtype), keys=keys)  # one cast, not one per step

    def init_state(self, memory: Memory, num_sequences: int) -> State:
        """See `Decoder.init_state`: two layers with tanh of the mean annotation vector."""
        real = memory.mask[..., None].to(memory.features.dtype)  # (B, L, 1)
        mean = (memory.features * real).sum(1) / real.sum(1)  # (B, D)
        hidden, cell = self.init_hidden(mean).tanh(), self.init_cell(mean).tanh()  # (B, H)
        return {
            "hidden": hidden[:, None].expand(-1, num_sequences, -1),
            "cell": cell[:, None].expand(-1, num_sequences, -1),
        }

    def embed(self, tokens: Tensor) -> Tensor:
        """See `RecurrentDecoder.embed`."""
        return self.drop(self.embedding(tokens))

    def drive(self, words: Tensor) -> Tensor:
        """See `RecurrentDecoder.drive`: G = 4H, the words' share of the LSTM's gates."""
        return self.word_gates(words)

    def advance(self, drive: Tensor, state: State, memory: Memory) -> tuple[Tensor, Tensor, Tensor, State]:
        """See `RecurrentDecoder.advance`."""
        attended = self.attention(state["hidden"], memory)
        context = gated = attended.context  # (B, K, D)
        if self.beta is not None:
            gated = self.beta(state["hidden"]).sigmoid() * context
        gates = drive + self.recurrent_gates(torch.cat((gated, state["hidden"].to(gated.dtype)), dim=-1))  # (B, K, 4H)
        write, keep, new, show = gates.chunk(4, dim=-1)
        cell = keep.sigmoid() * state["cell"] + write.sigmoid() * new.tanh()
        hidden = show.sigmoid() * cell.tanh()
        seen = gated if self.gated_output else context
        return hidden, seen, attended.alpha, {"hidden": hidden, "cell": cell}

    def predict(self, readout: Readout) -> Tensor:
        """See `RecurrentDecoder.predict`."""
        summary = self.drop(readout.hidden)
        if self.output_hidden is not None and self.output_context is not None:  # the deep output
            summary = readout.word + self.output_hidden(summary) + self.output_context(readout.context)
            if self.output_tanh:
                summary = summary.tanh()
            summary = self.drop(summary)
        return self.output(summary)
