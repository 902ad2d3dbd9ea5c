"""Cached features as a source."""

from __future__ import annotations

import torch
from cache_cases import build

from captioner.data.features.cache import FeatureCache
from captioner.data.images import Augmentation, ImageTransform
from captioner.data.sources.cached import CachedFeatures

TRANSFORM = ImageTransform(32)


def test_training_goes_through_the_views_in_turn(folder, items, encoder):
    build(folder, items, encoder, augmentation=Augmentation(), views=3)
    cache = FeatureCache.open(folder, encoder, TRANSFORM, Augmentation())
    source = CachedFeatures(cache, TRANSFORM, views=3)
    loads = [source.load(items[0], epoch, 0) for epoch in range(6)]
    everything = [cache.load(items[0].path, view) for view in range(3)]
    assert all(any(torch.equal(load, view) for load in loads[:3]) for view in everything)
    assert all(torch.equal(loads[epoch], loads[epoch + 3]) for epoch in range(3))
    firsts = [[torch.equal(source.load(items[0], 0, index), view) for view in everything] for index in range(20)]
    assert {tuple(first) for first in firsts} == {(True, False, False), (False, True, False), (False, False, True)}
