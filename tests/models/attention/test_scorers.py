"""What sets single scorers apart; all that they share is in `test_base.py`."""

from __future__ import annotations

import pytest
from attention_cases import build, random_memory

from captioner.models.attention import DotAttention, LocationAttention


def test_a_memory_of_too_many_locations_is_refused():
    with pytest.raises(ValueError, match="5 places, the memory 6 locations: set num_locations"):
        random_memory(build(LocationAttention, {"num_locations": 5}), [6])


def test_dot_attention_needs_queries_of_the_size_of_features():
    with pytest.raises(ValueError, match="feature_dim 6 must be query_dim 5: use GeneralAttention, or project"):
        DotAttention(6, 5)
