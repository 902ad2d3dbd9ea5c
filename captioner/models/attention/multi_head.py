"""Several heads look at the memory at once, each in a space of its own."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, nn

from captioner.models.attention.base import NOT_PREPARED, Attention, Focus, for_products
from captioner.models.attention.normalisers import Normaliser
from captioner.types import Attended, Memory
from captioner.types.limits import require_sizes


class MultiHeadAttention(Attention):
    """N heads with their own keys, queries and values; their means are joined (Vaswani et al. 2017, arXiv 1706.03762).

    Head n has alpha^n = softmax(W_q^n h . W_k^n a_i / sqrt(A / N)) and the mean sum_i alpha^n_i W_v^n a_i; the context
    is W_o of all N means in a row (section 3.2.2). W_o brings them back to D, so that decoders need not know.

    A prepared memory has `keys` and `values` of (B, N, L, A / N), the heads apart from one another: so laid out they
    are multiplied as they lie, step by step, for all sequences.

    Args:
        feature_dim: D, the size of an annotation vector.
        query_dim: H, the size of a query.
        num_heads: N; the paper: 8.
        attention_dim: A, the size of all heads together; the paper: 512.
        normaliser: turns scores into weights; softmax by default.

    Raises:
        ValueError: the heads do not share attention_dim evenly.
    """

    def __init__(
        self,
        feature_dim: int,
        query_dim: int,
        num_heads: int = 8,
        attention_dim: int = 512,
        normaliser: Normaliser | None = None,
    ) -> None:
        super().__init__(feature_dim, query_dim, normaliser)
        require_sizes(num_heads=num_heads, attention_dim=attention_dim)
        if attention_dim % num_heads:
            raise ValueError(f"attention_dim {attention_dim} must be a multiple of num_heads {num_heads}")
        self.num_heads = num_heads
        self.attention_dim = attention_dim
        self.key = nn.Linear(feature_dim, attention_dim, bias=False)
        self.query = nn.Linear(query_dim, attention_dim, bias=False)
        self.value = nn.Linear(feature_dim, attention_dim, bias=False)
        self.output = nn.Linear(attention_dim, feature_dim, bias=False)

    def prepare(self, memory: Memory) -> Memory:
        """See `Attention.prepare`: keys and values of every head."""
        self.require(memory)
        features = for_products(memory.features)
        keys = self._split(self.project(features)).contiguous()  # (B, N, L, A / N)
        values = self._split(self.value(features)).contiguous()
        return replace(memory, features=features, keys=keys, values=values)

    def project(self, features: Tensor) -> Tensor:
        """See `Attention.project`: the keys of all heads in a row."""
        return self.key(features)

    def ask(self, query: Tensor, memory: Memory) -> Tensor:
        """See `Attention.ask`: each head's query (B, N, K, A / N), on the scale that scores have."""
        return self._split(self.query(query)) * (self.attention_dim / self.num_heads) ** -0.5

    def score(self, query: Tensor, keys: Tensor) -> Tensor:
        """Score every head's queries (B, N, K, A / N) against its keys (B, N, L, A / N); returns (B, N, K, L)."""
        return query @ keys.mT

    def attend(self, query: Tensor, memory: Memory, focus: Focus, sentinel: Tensor | None = None) -> Attended:
        """See `Attention.attend`; all heads have one focus.

        Returns:
            alpha: (B, K, L) the mean of the heads' weights.
            extras: "heads" (B, K, N, L), their weights; "sentinel" (B, K), the mean of its weights, where there is one.
        """
        if memory.keys is None or memory.values is None:
            raise ValueError(NOT_PREPARED)
        for_heads = Focus(focus.within[:, None], None if focus.factor is None else focus.factor[:, None])
        query, own = self.ask(query, memory), None
        if sentinel is not None:
            own = (query * self._split(self.own_keys(sentinel, memory))).sum(-1, keepdim=True)  # (B, N, K, 1)
        heads, weight = self.weigh(self.score(query, memory.keys), for_heads, own)  # (B, N, K, L)
        seen = heads.to(memory.values.dtype) @ memory.values  # (B, N, K, A / N)
        extras = {"heads": heads.transpose(1, 2)}
        if sentinel is not None and weight is not None:
            seen = seen + weight.to(seen.dtype) * self._split(self.value(sentinel))
            extras["sentinel"] = weight.squeeze(-1).mean(dim=1)
        context = self.output(seen.transpose(1, 2).flatten(2))  # (B, K, D)
        return Attended(context, heads.mean(dim=1), extras)

    def _split(self, joined: Tensor) -> Tensor:
        """(B, X, A) of all heads to (B, N, X, A / N), one by one."""
        return joined.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
