"""Attention: a query looks at a memory and gets a weighted mean of its annotation vectors back.

A new scorer is one class here: `project` makes the keys once per image, `score` compares queries with them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from captioner.types import Attended, Memory


class Attention(nn.Module, ABC):
    """Soft attention over a memory: a softmax over scores, then a weighted mean.

    Subclasses say how a query and a key make a score.
    """

    @abstractmethod
    def project(self, features: Tensor) -> Tensor:
        """Project annotation vectors (B, L, D) to keys (B, L, A), once per image."""

    @abstractmethod
    def score(self, query: Tensor, keys: Tensor) -> Tensor:
        """Score queries (B, K, H) against keys (B, L, A); returns (B, K, L)."""

    def forward(self, query: Tensor, memory: Memory) -> Attended:
        """Attend to the memory.

        Args:
            query: (B, K, H) hidden states, K sequences per image.
            memory: L annotation vectors per image, with their projected keys.

        Returns:
            context: (B, K, D) weighted mean of the annotation vectors.
            alpha: (B, K, L) weights, at least in float32; each row sums to 1, padded locations get 0.

        Raises:
            ValueError: the memory has no keys: it was not prepared.
        """
        if memory.keys is None:
            raise ValueError("the memory has no keys: call the decoder's prepare(memory) first")
        scores = self.score(query, memory.keys)  # (B, K, L)
        scores = scores.masked_fill(~memory.mask[:, None], -torch.inf)
        alpha = scores.softmax(dim=-1, dtype=torch.promote_types(scores.dtype, torch.float32))
        context = alpha.to(memory.features.dtype) @ memory.features  # (B, K, D)
        return Attended(context, alpha)


class AdditiveAttention(Attention):
    """Score v . tanh(W_a a_i + W_h h + b) (Bahdanau et al. 2015, arXiv 1409.0473, appendix A.1.2).

    It is f_att of Show, Attend and Tell (arXiv 1502.03044, equation 4).

    Args:
        feature_dim: D, the size of an annotation vector.
        query_dim: H, the size of a query.
        attention_dim: A, the size of the space they are compared in; the paper does not give it,
            the authors' code uses D.
    """

    def __init__(self, feature_dim: int, query_dim: int, attention_dim: int = 512) -> None:
        super().__init__()
        self.feature_dim = feature_dim
        self.query_dim = query_dim
        self.attention_dim = attention_dim
        self.key = nn.Linear(feature_dim, attention_dim)
        self.query = nn.Linear(query_dim, attention_dim, bias=False)
        self.energy = nn.Linear(attention_dim, 1, bias=False)

    def project(self, features: Tensor) -> Tensor:
        """See `Attention.project`."""
        return self.key(features)

    def score(self, query: Tensor, keys: Tensor) -> Tensor:
        """See `Attention.score`."""
        compared = self.query(query)[:, :, None] + keys[:, None]  # (B, K, L, A)
        return self.energy(compared.tanh_()).squeeze(-1)  # (B, K, L)
