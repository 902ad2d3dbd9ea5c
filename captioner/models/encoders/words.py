"""An encoder of sentences: a recurrent network that reads each of them in both directions."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from captioner.models.encoders.base import Encoder
from captioner.types import Memory
from captioner.types.limits import MOST_LAYERS, require_shares, require_sizes

CELLS = {"lstm": nn.LSTM, "gru": nn.GRU}
PAD_ID = 0


class WordEncoder(Encoder):
    """A bidirectional LSTM or GRU over the words of a sentence (Bahdanau et al. 2015, arXiv 1409.0473, section 3.2).

    The annotation vector of word j is a_j = [h_j forwards; h_j backwards]: what came before it and what comes after
    it, with most of both about the words nearby. The paper: a GRU of 1,000 each way over word vectors of 620.

    Args:
        vocab_size: how many words the source language has; in a config it comes from the data.
        embed_dim: size of a word vector.
        hidden_dim: size of the network's state in each direction; D is twice this.
        num_layers: of the network; from the second on a layer reads both directions of the one below. The paper: 1.
        cell: "lstm" or "gru"; the paper: "gru".
        dropout: on the word vectors, between layers and on the annotation vectors; the paper: none.

    Raises:
        ValueError: an unknown cell, or a number that is not possible.
    """

    def __init__(
        self,
        vocab_size: int,
        embed_dim: int = 256,
        hidden_dim: int = 256,
        num_layers: int = 1,
        cell: Literal["lstm", "gru"] = "lstm",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        require_sizes(vocab_size=vocab_size, embed_dim=embed_dim, hidden_dim=hidden_dim)
        require_sizes(MOST_LAYERS, num_layers=num_layers)
        require_shares(dropout=dropout)
        if cell not in CELLS:
            raise ValueError(f"cell {cell!r} is not one of {', '.join(CELLS)}")
        self.vocab_size = vocab_size
        self.embed_dim = embed_dim
        self.hidden_dim = hidden_dim
        self.num_layers = num_layers
        self.cell = cell
        self.dropout = dropout
        self.feature_dim = 2 * hidden_dim
        self.embedding = nn.Embedding(vocab_size, embed_dim, padding_idx=PAD_ID)
        self.drop = nn.Dropout(dropout)
        between_layers = dropout if num_layers > 1 else 0.0
        self.network = CELLS[cell](
            embed_dim, hidden_dim, num_layers, batch_first=True, dropout=between_layers, bidirectional=True
        )

    def forward(self, tokens: Tensor) -> Memory:
        """Read sentences.

        Args:
            tokens: (B, S) int64 words, 0 after each sentence's last; at least one word in each.

        Returns:
            A memory of S words; what stands after a sentence's end is in no direction read, and is not in the mask.
        """
        mask = tokens != PAD_ID  # (B, S)
        # Packed, a sentence's last word is where the backward direction begins, whatever stands after it.
        words = pack_padded_sequence(
            self.drop(self.embedding(tokens)), mask.sum(dim=1).cpu(), batch_first=True, enforce_sorted=False
        )
        states, _ = self.network(words)
        features, _ = pad_packed_sequence(states, batch_first=True, total_length=tokens.shape[1])  # (B, S, D)
        return Memory.from_words(self.drop(features), mask)
