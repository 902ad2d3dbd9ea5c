"""Numbers that are possible, and those that are refused by name."""

from __future__ import annotations

import math

import numpy as np
import pytest

from captioner.types.limits import MOST, require_factors, require_shares, require_sizes


def test_what_is_possible_passes():
    require_sizes(a=1, b=MOST, c=np.int64(3))
    require_sizes(10, 0, a=0, b=10)
    require_shares(a=0, b=0.5, c=1.0, d=np.float32(0.25))
    require_factors(a=0, b=1e30)


@pytest.mark.parametrize("value", [0, -1, MOST + 1, 2.0, "64", None, True, math.nan])
def test_sizes(value):
    with pytest.raises(ValueError, match=rf"^hidden_dim must be a whole number from 1 to 1,048,576, not {value!r}$"):
        require_sizes(embed_dim=3, hidden_dim=value)


@pytest.mark.parametrize("value", [-0.1, 1.5, math.nan, math.inf, "0.5", None, False])
def test_shares(value):
    with pytest.raises(ValueError, match=rf"^dropout must be a number from 0 to 1, not {value!r}$"):
        require_shares(dropout=value)


@pytest.mark.parametrize("value", [-1, math.nan, math.inf, "1", None])
def test_factors(value):
    with pytest.raises(ValueError, match=rf"^gamma must be a finite number, 0 or more, not {value!r}$"):
        require_factors(gamma=value)
