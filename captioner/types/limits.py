"""What a part's numbers may be: sizes, shares and factors, each refused by its name."""

from __future__ import annotations

import math
from numbers import Integral, Real

MOST = 2**20
"""Of any size: far more than there is memory for, and few enough to be multiplied."""

MOST_LAYERS = 1000
"""Of what is built one by one."""


def require_sizes(most: int = MOST, least: int = 1, **sizes: int) -> None:
    """See that sizes and counts are whole numbers within limits.

    Args:
        most: the largest that is possible.
        least: the smallest.
        sizes: by the names of the arguments.

    Raises:
        ValueError: one of them is not, with its name and value.
    """
    for name, size in sizes.items():
        whole = isinstance(size, Integral) and not isinstance(size, bool)
        if not (whole and least <= size <= most):
            raise ValueError(f"{name} must be a whole number from {least:,} to {most:,}, not {size!r}")


def require_shares(**shares: float) -> None:
    """See that probabilities and other shares are numbers from 0 to 1; arguments and errors as for `require_sizes`."""
    for name, share in shares.items():
        if not (_is_number(share) and 0 <= share <= 1):
            raise ValueError(f"{name} must be a number from 0 to 1, not {share!r}")


def require_factors(**factors: float) -> None:
    """See that weights and factors are finite and not negative; arguments and errors as for `require_sizes`."""
    for name, factor in factors.items():
        if not (_is_number(factor) and 0 <= factor < math.inf):
            raise ValueError(f"{name} must be a finite number, 0 or more, not {factor!r}")


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
