"""Local attention: one window of the memory at a time (Luong et al. 2015, arXiv 1508.04025, section 3.2).

A location's position is its number among the real ones, from 0: padding takes no place, wherever it lies. In two
dimensions it is the row and the column, each counted among those that have real cells; these are to form a rectangle.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn

from captioner.models.attention.base import Attention, Focus
from captioner.models.attention.normalisers import Normaliser
from captioner.models.attention.scorers import GeneralAttention
from captioner.models.attention.wrapped import WrappedAttention
from captioner.types import Kind, Memory
from captioner.types.limits import require_sizes


class LocalAttention(WrappedAttention, ABC):
    """A scorer that sees no farther than `window` from a centre; subclasses say where the centre is.

    The normaliser sees the window alone. Defined over one grid or one sentence: regions have no order, and no steps
    from one to the next.

    Args:
        feature_dim: D, the size of an annotation vector.
        query_dim: H, the size of a query.
        scorer: makes the scorer from (feature_dim, query_dim), any but a wrapper.
        window: how far from the centre, in locations; the paper's D, 10 there.
        two_dimensional: the window is a square of a grid's cells around a row and a column; otherwise it is a run of
            the flattened memory. Then a memory must be a grid.
        normaliser: takes the place of the scorer's own, if given.

    Raises:
        ValueError: a window without neighbours, or a scorer that is itself a wrapper.
    """

    kinds = (Kind.GRID, Kind.WORDS)
    single_segment = True

    def __init__(
        self,
        feature_dim: int,
        query_dim: int,
        scorer: Callable[[int, int], Attention] = GeneralAttention,
        window: int = 10,
        two_dimensional: bool = False,
        normaliser: Normaliser | None = None,
    ) -> None:
        super().__init__(feature_dim, query_dim, scorer, normaliser)
        require_sizes(window=window)
        if isinstance(self.scorer, WrappedAttention):
            raise ValueError(
                f"{type(self).__name__} cannot have {type(self.scorer).__name__} as its scorer: choose one that is no "
                "wrapper (HardAttention may wrap LocalMonotonicAttention, not the other way round)"
            )
        self.window = window
        self.two_dimensional = two_dimensional

    @abstractmethod
    def centre(self, query: Tensor, step: Tensor | None, positions: Tensor, mask: Tensor, extent: Tensor) -> Tensor:
        """Where the windows are.

        Args:
            query: (B, K, H).
            step: (B, K) int64, the number of each sequence's word, from 0.
            positions: (B, L, C) float, of each location, C = 1 or 2 coordinates; see the file's docstring.
            mask: (B, L) bool, True where a location is real.
            extent: (B, C) float, how many positions there are along each coordinate.

        Returns:
            (B, K, C) positions, whole or between two.
        """

    def require(self, memory: Memory) -> None:
        """See `Attention.require`: in two dimensions nothing but a grid."""
        super().require(memory)
        if self.two_dimensional and memory.grid is None:
            raise ValueError(
                f"{type(self).__name__} with two_dimensional is not defined over {memory.kinds[0].value}, only over a "
                "grid: set two_dimensional to false"
            )

    def focus(self, query: Tensor, memory: Memory, step: Tensor | None) -> Focus:
        """See `Attention.focus`: the real locations in the window."""
        positions, extent = self._positions(memory, torch.promote_types(query.dtype, torch.float32))
        centre = self.centre(query, step, positions, memory.mask, extent)  # (B, K, C)
        distance = positions[:, None] - centre[:, :, None]  # (B, K, L, C)
        real = memory.mask[:, None]  # (B, 1, L)
        within = (distance.abs() <= self.window).all(dim=-1) & real  # (B, K, L)
        within = within | (real & ~within.any(dim=-1, keepdim=True))  # all, should a grid have a hole of this size
        return Focus(within, self.fade(distance))

    def fade(self, distance: Tensor) -> Tensor | None:
        """What the weights are multiplied by, (B, K, L) of distances (B, K, L, C); None leaves them as they are."""
        return None

    def _positions(self, memory: Memory, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """The position of each location (B, L, C), and the extent (B, C) of all."""
        if not self.two_dimensional or memory.grid is None:
            positions = memory.mask.cumsum(dim=1)[..., None] - 1  # (B, L, 1)
        else:
            cells = memory.mask.unflatten(1, memory.grid)  # (B, h, w)
            rows, columns = cells.any(dim=2).cumsum(dim=1) - 1, cells.any(dim=1).cumsum(dim=1) - 1  # (B, h), (B, w)
            across = (rows[:, :, None].expand(cells.shape), columns[:, None].expand(cells.shape))
            positions = torch.stack(across, dim=-1).flatten(1, 2)  # (B, L, 2)
        return positions.to(dtype), positions.amax(dim=1).to(dtype) + 1


class LocalMonotonicAttention(LocalAttention):
    """The window moves on by one location with each word: p_t = t (local-m).

    At the last real location it stays. In two dimensions the centre scans the grid row by row, as it does in the
    flattened memory, but the window reaches as far up and down as it does left and right.

    Args:
        feature_dim: D, the size of an annotation vector.
        query_dim: H, the size of a query.
        scorer: makes the scorer from (feature_dim, query_dim), any but a wrapper.
        window: how far from the centre, in locations; the paper's D, 10 there.
        two_dimensional: the window is a square of a grid's cells around a row and a column.
        normaliser: takes the place of the scorer's own, if given.
    """

    def centre(self, query: Tensor, step: Tensor | None, positions: Tensor, mask: Tensor, extent: Tensor) -> Tensor:
        """See `LocalAttention.centre`: the position of the t-th real location.

        Raises:
            ValueError: there is no step.
        """
        if step is None:
            raise ValueError("LocalMonotonicAttention must know how far a sequence is: give `step`")
        number = mask.cumsum(dim=1) - 1  # (B, L)
        step = torch.minimum(step, number[:, -1:])  # (B, K)
        is_here = (number[:, None] == step[..., None]) & mask[:, None]  # (B, K, L), True once in a row
        return positions.take_along_dim(is_here.int().argmax(dim=-1)[..., None], dim=1)


class LocalPredictiveAttention(LocalAttention):
    """The query says where the window is, p_t = S sigmoid(v . tanh(W h)) (local-p, equation 9).

    S is the number of the image's real locations; in two dimensions p_t is a row and a column, and S the number of
    each. After the normaliser the weights are multiplied by exp(-|i - p_t|^2 / (2 sigma^2)) with sigma = window / 2
    (equation 10), by which p_t is learned. Its rows of alpha do NOT sum to 1, but to less: by as much as the softmax
    prefers what is far from p_t.

    Args:
        feature_dim: D, the size of an annotation vector.
        query_dim: H, the size of a query.
        scorer: makes the scorer from (feature_dim, query_dim), any but a wrapper.
        window: how far from the centre, in locations; the paper's D, 10 there.
        two_dimensional: the window is a square of a grid's cells around a row and a column.
        normaliser: takes the place of the scorer's own, if given.
    """

    def __init__(
        self,
        feature_dim: int,
        query_dim: int,
        scorer: Callable[[int, int], Attention] = GeneralAttention,
        window: int = 10,
        two_dimensional: bool = False,
        normaliser: Normaliser | None = None,
    ) -> None:
        super().__init__(feature_dim, query_dim, scorer, window, two_dimensional, normaliser)
        self.rows_sum_to_1 = False
        self.hidden = nn.Linear(query_dim, query_dim, bias=False)  # W
        self.place = nn.Linear(query_dim, 2 if two_dimensional else 1, bias=False)  # v

    def centre(self, query: Tensor, step: Tensor | None, positions: Tensor, mask: Tensor, extent: Tensor) -> Tensor:
        """See `LocalAttention.centre`."""
        place = self.place(self.hidden(query).tanh())  # (B, K, C)
        return extent[:, None] * place.to(extent.dtype).sigmoid()

    def fade(self, distance: Tensor) -> Tensor:
        """See `LocalAttention.fade`: the Gaussian of equation 10."""
        deviation = self.window / 2
        return (-distance.square().sum(dim=-1) / (2 * deviation**2)).exp()
