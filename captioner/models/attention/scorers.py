"""Scorers: how a query and a key make a score."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from captioner.models.attention.additive import AdditiveScorer
from captioner.models.attention.base import Attention, Focus
from captioner.models.attention.normalisers import Normaliser
from captioner.types import Attended, Kind, Memory
from captioner.types.limits import require_sizes


class AdditiveAttention(AdditiveScorer):
    """Score v . tanh(W_a a_i + W_h h + b) (Bahdanau et al. 2015, arXiv 1409.0473, appendix A.1.2).

    It is f_att of Show, Attend and Tell (arXiv 1502.03044, equation 4).

    Args:
        feature_dim: D, the size of an annotation vector.
        query_dim: H, the size of a query.
        attention_dim: A, the size of the space they are compared in; Show, Attend and Tell does not give it,
            its authors' code uses D.
        bias: whether there is a b; Up-Down (arXiv 1707.07998) has none.
        normaliser: turns scores into weights; softmax by default.
    """

    def __init__(
        self,
        feature_dim: int,
        query_dim: int,
        attention_dim: int = 512,
        bias: bool = True,
        normaliser: Normaliser | None = None,
    ) -> None:
        super().__init__(feature_dim, query_dim, attention_dim, normaliser)
        self.bias = bias
        self.key = nn.Linear(feature_dim, attention_dim, bias=bias)
        self.query = nn.Linear(query_dim, attention_dim, bias=False)
        self.energy = nn.Linear(attention_dim, 1, bias=False)

    def project(self, features: Tensor) -> Tensor:
        """See `Attention.project`: k."""
        return self.key(features)

    def project_query(self, query: Tensor) -> Tensor:
        """See `AdditiveScorer.project_query`."""
        return self.query(query)


class DotAttention(Attention):
    """Score h . a_i (Luong et al. 2015, arXiv 1508.04025, section 3.1: dot). It has no parameters.

    Args:
        feature_dim: D, the size of an annotation vector; must be H.
        query_dim: H, the size of a query.
        normaliser: turns scores into weights; softmax by default.

    Raises:
        ValueError: D is not H.
    """

    def __init__(self, feature_dim: int, query_dim: int, normaliser: Normaliser | None = None) -> None:
        if feature_dim != query_dim:
            raise ValueError(
                f"DotAttention multiplies annotation vectors and queries as they are, so feature_dim {feature_dim} "
                f"must be query_dim {query_dim}: use GeneralAttention, or project the features to {query_dim} first"
            )
        super().__init__(feature_dim, query_dim, normaliser)

    def project(self, features: Tensor) -> Tensor:
        """See `Attention.project`: the annotation vectors themselves."""
        return features

    def score(self, query: Tensor, keys: Tensor) -> Tensor:
        """See `Attention.score`."""
        return query @ keys.mT  # (B, K, L)


class GeneralAttention(Attention):
    """Score h . W_a a_i (Luong et al. 2015, arXiv 1508.04025, section 3.1: general).

    Args:
        feature_dim: D, the size of an annotation vector.
        query_dim: H, the size of a query.
        normaliser: turns scores into weights; softmax by default.
    """

    def __init__(self, feature_dim: int, query_dim: int, normaliser: Normaliser | None = None) -> None:
        super().__init__(feature_dim, query_dim, normaliser)
        self.key = nn.Linear(feature_dim, query_dim, bias=False)

    def project(self, features: Tensor) -> Tensor:
        """See `Attention.project`: A = H."""
        return self.key(features)

    def score(self, query: Tensor, keys: Tensor) -> Tensor:
        """See `Attention.score`."""
        return query @ keys.mT  # (B, K, L)


class ConcatAttention(AdditiveScorer):
    """Score v . tanh(W_a [h; a_i]) (Luong et al. 2015, arXiv 1508.04025, section 3.1: concat).

    As W_a [h; a_i] = W_h h + W_k a_i, it can say what `AdditiveAttention` says without b, and keys are projected once
    here too. It differs where training starts: one matrix for both, drawn on the scale of H + D inputs.

    Args:
        feature_dim: D, the size of an annotation vector.
        query_dim: H, the size of a query.
        attention_dim: A, the size of the space they are compared in.
        normaliser: turns scores into weights; softmax by default.
    """

    def __init__(
        self,
        feature_dim: int,
        query_dim: int,
        attention_dim: int = 512,
        normaliser: Normaliser | None = None,
    ) -> None:
        super().__init__(feature_dim, query_dim, attention_dim, normaliser)
        self.joint = nn.Linear(query_dim + feature_dim, attention_dim, bias=False)
        self.energy = nn.Linear(attention_dim, 1, bias=False)

    def project(self, features: Tensor) -> Tensor:
        """See `Attention.project`: k."""
        return functional.linear(features, self.joint.weight[:, self.query_dim :])

    def project_query(self, query: Tensor) -> Tensor:
        """See `AdditiveScorer.project_query`."""
        return functional.linear(query, self.joint.weight[:, : self.query_dim])


class LocationAttention(Attention):
    """Scores W_a h, one for each place (Luong et al. 2015, arXiv 1508.04025, equation 8).

    They depend on the query alone. Location i is whatever lies there, so the order must mean something (that of
    regions does not), and a place must be the same in every image (what follows words has none: some sentences have
    more of them). A sentinel has no place.

    Args:
        feature_dim: D, the size of an annotation vector.
        query_dim: H, the size of a query.
        num_locations: the most locations that a memory may have; the paper of Show, Attend and Tell has 14 x 14.
        normaliser: turns scores into weights; softmax by default.
    """

    kinds = (Kind.GRID, Kind.WORDS)
    single_segment = True

    def __init__(
        self,
        feature_dim: int,
        query_dim: int,
        num_locations: int = 196,
        normaliser: Normaliser | None = None,
    ) -> None:
        super().__init__(feature_dim, query_dim, normaliser)
        require_sizes(num_locations=num_locations)
        self.num_locations = num_locations
        self.place = nn.Linear(query_dim, num_locations, bias=False)

    def require(self, memory: Memory) -> None:
        """See `Attention.require`: not more locations than there are places, either."""
        super().require(memory)
        if memory.mask.shape[1] > self.num_locations:
            raise ValueError(
                f"LocationAttention has {self.num_locations} places, the memory {memory.mask.shape[1]} locations: set "
                "num_locations to the most there are"
            )

    def project(self, features: Tensor) -> Tensor:
        """See `Attention.project`: A = 0, nothing is compared."""
        return features[..., :0]

    def score(self, query: Tensor, keys: Tensor) -> Tensor:
        """See `Attention.score`."""
        return self.place(query)[..., : keys.shape[1]]  # (B, K, L)

    def attend(self, query: Tensor, memory: Memory, focus: Focus, sentinel: Tensor | None = None) -> Attended:
        """See `Attention.attend`.

        Raises:
            ValueError: there is a sentinel.
        """
        if sentinel is not None:
            raise ValueError(
                "LocationAttention scores places, and a sentinel has none: choose an attention that compares vectors"
            )
        return super().attend(query, memory, focus)


class ScaledDotAttention(Attention):
    """Score W_q h . W_k a_i / sqrt(A) (Vaswani et al. 2017, arXiv 1706.03762, equation 1).

    The weighted mean is of the annotation vectors themselves; `MultiHeadAttention` projects these too.

    Args:
        feature_dim: D, the size of an annotation vector.
        query_dim: H, the size of a query.
        attention_dim: A, the size of the space they are compared in.
        normaliser: turns scores into weights; softmax by default.
    """

    def __init__(
        self,
        feature_dim: int,
        query_dim: int,
        attention_dim: int = 512,
        normaliser: Normaliser | None = None,
    ) -> None:
        super().__init__(feature_dim, query_dim, normaliser)
        require_sizes(attention_dim=attention_dim)
        self.attention_dim = attention_dim
        self.key = nn.Linear(feature_dim, attention_dim, bias=False)
        self.query = nn.Linear(query_dim, attention_dim, bias=False)

    def project(self, features: Tensor) -> Tensor:
        """See `Attention.project`."""
        return self.key(features)

    def ask(self, query: Tensor, memory: Memory) -> Tensor:
        """See `Attention.ask`: on the scale that scores have."""
        return self.query(query) * self.attention_dim**-0.5

    def score(self, query: Tensor, keys: Tensor) -> Tensor:
        """See `Attention.score`."""
        return query @ keys.mT  # (B, K, L)
