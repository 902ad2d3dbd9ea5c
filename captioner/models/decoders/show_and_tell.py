"""The decoder without attention of Show and Tell (Vinyals et al. 2015, arXiv 1411.4555)."""

from __future__ import annotations

from torch import Tensor, nn

from captioner.models.decoders.base import Readout
from captioner.models.decoders.lstm import IMAGE_GATES, LSTMDecoder, first_state, lstm_cell, mean_vector, orthogonal
from captioner.types import Attended, Memory, State


class ShowAndTell(LSTMDecoder):
    """An LSTM that sees one context vector, the mean annotation vector a, before the first word.

        h_0, c_0 = LSTM(W a, 0, 0)                    (equation 10: the image is the input before the first)
        h_t, c_t = LSTM(E y_{t-1}, h_{t-1}, c_{t-1})  (equations 11 and 4 to 8)
        p(y_t) = softmax(L_o h_t)                     (equations 9 and 12)

    Args:
        feature_dim: D, the size of an annotation vector.
        vocab_size: V, how many words there are.
        embed_dim: E, the size of a word vector (the paper: 512).
        hidden_dim: H, the size of the LSTM (the paper: 512).
        every_step: the LSTM sees W a with every word, as in Cho et al. 2014 (arXiv 1406.1078, section 2.2); Show and
            Tell found it no better (section 3.1).
        tie_embeddings: see `LSTMDecoder`, like all that follow; embed_dim must be hidden_dim then.
        dropout: on the word vectors and on h_t before the output.
        normalise_features: LayerNorm of the annotation vectors first.
        project_dim: one layer with ReLU over the annotation vectors first.
    """

    def __init__(
        self,
        feature_dim: int,
        vocab_size: int,
        embed_dim: int = 512,
        hidden_dim: int = 512,
        every_step: bool = False,
        tie_embeddings: bool = False,
        dropout: float = 0.5,
        normalise_features: bool = False,
        project_dim: int | None = None,
    ) -> None:
        super().__init__(
            feature_dim,
            vocab_size,
            None,
            embed_dim=embed_dim,
            hidden_dim=hidden_dim,
            output_dim=hidden_dim,
            tie_embeddings=tie_embeddings,
            dropout=dropout,
            normalise_features=normalise_features,
            project_dim=project_dim,
        )
        self.every_step = every_step
        self.word_gates = nn.Linear(embed_dim, 4 * hidden_dim)
        self.image_gates = nn.Linear(self.seen_dim, 4 * hidden_dim, bias=False)
        self.recurrent_gates = nn.Linear(hidden_dim, 4 * hidden_dim, bias=False)
        orthogonal(self.recurrent_gates.weight)

    def prepare(self, memory: Memory) -> Memory:
        """See `Decoder.prepare`: a note holds W a, the image's share of the gates."""
        memory = super().prepare(memory)
        return memory.with_note(IMAGE_GATES, self.image_gates(mean_vector(memory)))  # (B, 4H)

    def init_state(self, memory: Memory, num_sequences: int) -> State:
        """See `Decoder.init_state`: one step of the LSTM, over the image."""
        image = memory.note(IMAGE_GATES) + self.word_gates.bias  # (B, 4H)
        hidden, cell = lstm_cell(image, image.new_zeros(len(image), self.hidden_dim))
        return first_state(num_sequences, hidden=hidden, cell=cell)

    def drive(self, words: Tensor) -> Tensor:
        """See `RecurrentDecoder.drive`: G = 4H, the words' share of the LSTM's gates."""
        return self.word_gates(words)

    def advance(self, drive: Tensor, state: State, memory: Memory) -> tuple[Tensor, Attended, State]:
        """See `RecurrentDecoder.advance`; nothing is attended to."""
        gates = drive + self.recurrent_gates(state["hidden"])  # (B, K, 4H)
        if self.every_step:
            gates = gates + memory.note(IMAGE_GATES)[:, None]
        hidden, cell = lstm_cell(gates, state["cell"])
        return hidden, Attended(hidden[..., :0], None), {"hidden": hidden, "cell": cell}

    def predict(self, readout: Readout) -> Tensor:
        """See `RecurrentDecoder.predict`."""
        return self.output(self.drop(readout.hidden))
