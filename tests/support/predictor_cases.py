"""Whether two captions are the same."""

from __future__ import annotations

import numpy as np
import pytest


def same(one, other) -> None:
    assert (one.text, one.words) == (other.text, other.words)
    assert one.log_prob == pytest.approx(other.log_prob, abs=1e-4)
    assert (one.maps.words, one.maps.image_size, one.maps.grid_box) == (
        other.maps.words,
        other.maps.image_size,
        other.maps.grid_box,
    )
    np.testing.assert_allclose(one.maps.alpha, other.maps.alpha, atol=1e-5)
