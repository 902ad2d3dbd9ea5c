"""What decoders around an LSTM share: prepared features, word vectors, the cell, tied output."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.overrides import handle_torch_function, has_torch_function

from captioner.models.attention import Attention
from captioner.models.attention.base import precise
from captioner.models.decoders.base import RecurrentDecoder
from captioner.types import Memory, State
from captioner.types.limits import require_shares, require_sizes

IMAGE_GATES = "image gates"
"""The note of a memory that holds what the whole image sends to the gates at every step."""


class LSTMDecoder(RecurrentDecoder):
    """An LSTM over words and what is seen; subclasses say what it sees, when, and what the output layer reads.

    Args:
        feature_dim: D, the size of an annotation vector.
        vocab_size: V, how many words there are.
        attention: makes the scorer from (feature_dim, hidden_dim); None does not attend.
        embed_dim: E, the size of a word vector.
        hidden_dim: H, the size of an LSTM.
        output_dim: the size of what the last layer reads.
        tie_embeddings: the last layer's matrix is that of the word vectors (Press and Wolf 2017, arXiv 1608.05859).
        dropout: on the word vectors, on projected features, and where subclasses say.
        normalise_features: LayerNorm of the annotation vectors first.
        project_dim: the annotation vectors first go through one layer with ReLU and dropout to this size, which takes
            D's place from there on (as Rennie et al. 2017, arXiv 1612.00563, embed theirs); None leaves them.

    Attributes:
        seen_dim: the size of the annotation vectors that attention sees.

    Raises:
        ValueError: a number that is not possible, or tied embeddings that do not fit.
    """

    attention: Attention | None

    def __init__(
        self,
        feature_dim: int,
        vocab_size: int,
        attention: Callable[[int, int], Attention] | None,
        *,
        embed_dim: int,
        hidden_dim: int,
        output_dim: int,
        tie_embeddings: bool,
        dropout: float,
        normalise_features: bool,
        project_dim: int | None,
    ) -> None:
        super().__init__()
        require_sizes(
            feature_dim=feature_dim,
            vocab_size=vocab_size,
            embed_dim=embed_dim,
            hidden_dim=hidden_dim,
        )
        if project_dim is not None:
            require_sizes(project_dim=project_dim)
        require_shares(dropout=dropout)
        if tie_embeddings and output_dim != embed_dim:
            raise ValueError(
                f"tied embeddings need the output layer to read vectors of embed_dim {embed_dim}, here they have "
                f"{output_dim}: set hidden_dim to it, or leave the embeddings untied"
            )
        self.feature_dim = feature_dim
        self.vocab_size = vocab_size
        self.embed_dim = embed_dim
        self.hidden_dim = hidden_dim
        self.tie_embeddings = tie_embeddings
        self.dropout = dropout
        self.normalise_features = normalise_features
        self.project_dim = project_dim
        self.seen_dim = project_dim or feature_dim

        self.norm = nn.LayerNorm(feature_dim) if normalise_features else None
        self.projection = nn.Linear(feature_dim, project_dim) if project_dim else None
        self.embedding = nn.Embedding(vocab_size, embed_dim)
        self.attention = attention(self.seen_dim, hidden_dim) if attention else None
        self.output = nn.Linear(output_dim, vocab_size)
        self.drop = nn.Dropout(dropout)
        nn.init.normal_(self.embedding.weight, std=embed_dim**-0.5)
        nn.init.zeros_(self.output.bias)
        if tie_embeddings:
            self.output.weight = self.embedding.weight

    def prepare(self, memory: Memory) -> Memory:
        """See `Decoder.prepare`."""
        features = memory.features
        if self.norm is not None:
            features = self.norm(features)
        if self.projection is not None:
            features = self.drop(self.projection(features).relu())
        memory = replace(memory, features=features)
        return memory if self.attention is None else self.attention.prepare(memory)

    def embed(self, tokens: Tensor) -> Tensor:
        """See `RecurrentDecoder.embed`."""
        return self.drop(self.embedding(tokens))


def first_state(num_sequences: int, **vectors: Tensor) -> State:
    """A state before the first word: each (B, H) for all K sequences of an image, and the step's number."""
    state = {name: vector[:, None].expand(-1, num_sequences, -1) for name, vector in vectors.items()}
    images = next(iter(vectors.values()))
    state["step"] = torch.zeros(len(images), num_sequences, dtype=torch.long, device=images.device)
    return state


def lstm_cell(gates: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    """The elementwise part of an LSTM (Hochreiter and Schmidhuber 1997; Gers et al. 2000).

    The cell adds up over all words, so it is at least in float32, whatever matrix products run in.

    Args:
        gates: (B, K, 4H) sums of all that drives the gates: write (input), keep (forget), new, show (output).
        cell: (B, K, H) the cell before.

    Returns:
        hidden, in the gates' number format, and cell after, (B, K, H) each.
    """
    cell = precise(cell)
    write, keep, new, show = gates.to(cell.dtype).chunk(4, dim=-1)
    cell = keep.sigmoid() * cell + write.sigmoid() * new.tanh()
    return (show.sigmoid() * cell.tanh()).to(gates.dtype), cell


def mean_vector(memory: Memory) -> Tensor:
    """The mean annotation vector (B, D), of the real locations."""
    features = precise(memory.features * memory.mask[..., None])  # (B, L, D); bf16 would count 441 locations as 440
    return (features.sum(1) / memory.mask.sum(1, keepdim=True)).to(memory.features.dtype)


def orthogonal(weight: Tensor) -> None:
    """Make each of the four gates' (H, H) recurrent matrices orthogonal, as the authors' code of arXiv 1502.03044 does.

    Args:
        weight: (4H, H), changed in place; it may be some columns of a larger matrix.
    """
    if has_torch_function((weight,)):  # as torch's own initialisers do, so that who loads weights can leave it out
        return handle_torch_function(orthogonal, (weight,), weight)
    for block in weight.data.chunk(4):
        nn.init.orthogonal_(block)
