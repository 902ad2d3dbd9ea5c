"""Maps are values: arrays with the place of each weight."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from captioner.types import AttentionMaps, GridMaps, RegionMaps, WordMaps

ALPHA = np.full((2, 4), 0.25, dtype=np.float32)
MAPS = {
    "grid": GridMaps(("a", "dog"), ALPHA.reshape(2, 2, 2), (60, 40), (0.0, 0.0, 60.0, 40.0)),
    "regions": RegionMaps(("a", "dog"), ALPHA, (60, 40), np.zeros((4, 4), dtype=np.float32)),
    "words": WordMaps(("a", "dog"), ALPHA, ("ein", "Hund", "läuft", "weg")),
}


@pytest.mark.parametrize("maps", MAPS.values(), ids=MAPS)
def test_what_only_some_attention_gives_is_left_out(maps):
    assert isinstance(maps, AttentionMaps)
    assert (maps.heads, maps.head_names, maps.sentinel) == (None, (), None)


@pytest.mark.parametrize("maps", MAPS.values(), ids=MAPS)
def test_maps_are_not_changed_but_replaced(maps):
    with pytest.raises(dataclasses.FrozenInstanceError):
        maps.words = ("a", "cat")
    other = dataclasses.replace(maps, words=("a", "cat"), sentinel=np.zeros(2, dtype=np.float32))
    assert type(other) is type(maps)
    assert other.alpha is maps.alpha
    assert maps.sentinel is None
