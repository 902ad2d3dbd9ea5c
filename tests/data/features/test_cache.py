"""Reading a feature cache."""

from __future__ import annotations

import pickle

import pytest
import torch
from cache_cases import build

from captioner.data.features import cache as reading
from captioner.data.features.cache import FeatureCache
from captioner.data.features.identity import CacheError
from captioner.data.images import ImageTransform

TRANSFORM = ImageTransform(32)


def test_changed_image_is_refused_by_name(folder, items, encoder):
    build(folder, items, encoder)
    data = bytearray(items[3].path.read_bytes())
    data[-20] ^= 1
    items[3].path.write_bytes(data)
    cache = FeatureCache.open(folder, encoder, TRANSFORM)
    (problem,) = cache.check(items)
    assert problem.name == str(items[3].path)
    assert str(folder) in problem.reason
    assert "captioner cache" in problem.reason
    with pytest.raises(ValueError, match="is not in the cache"):
        cache.load(items[3].path)


def test_no_cache_foreign_and_damaged_files_are_clear(folder, items, encoder):
    with pytest.raises(CacheError, match="no feature cache here"):
        FeatureCache.open(folder, encoder, TRANSFORM)
    build(folder, items, encoder)
    features = folder / "features.f16"
    features.write_bytes(features.read_bytes()[:-1])
    for use in (lambda: FeatureCache.open(folder, encoder, TRANSFORM), lambda: build(folder, items, encoder)):
        with pytest.raises(CacheError, match="damaged"):
            use()
    (folder / "cache.json").write_text("{")
    with pytest.raises(CacheError, match="damaged, or not a feature cache"):
        FeatureCache.open(folder, encoder, TRANSFORM)


def test_a_cache_can_be_pickled_to_workers(folder, items, encoder):
    build(folder, items, encoder)
    cache = FeatureCache.open(folder, encoder, TRANSFORM)
    cache.check(items)
    copy = pickle.loads(pickle.dumps(cache))
    assert torch.equal(copy.load(items[0].path), cache.load(items[0].path))


def test_checked_images_are_not_hashed_again(folder, items, encoder, monkeypatch):
    build(folder, items, encoder)
    cache = FeatureCache.open(folder, encoder, TRANSFORM)
    cache.check(items)
    monkeypatch.setattr(reading, "file_digest", None)
    assert cache.load(items[0].path).shape == (2, 2, 6)


def test_loaded_features_are_the_readers_own(folder, items, encoder):
    build(folder, items, encoder)
    cache = FeatureCache.open(folder, encoder, TRANSFORM)
    cache.load(items[0].path).zero_()
    assert cache.load(items[0].path).any()
