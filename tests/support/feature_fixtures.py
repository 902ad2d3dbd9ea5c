"""Photos, encoders and regions, for tests of features."""

from __future__ import annotations

import pytest
from cache_cases import SmallEncoder
from region_cases import random_regions

from captioner.data.features.regions import Regions
from captioner.data.readers import SyntheticShapes


@pytest.fixture
def encoder():
    return SmallEncoder()


@pytest.fixture
def items(tmp_path):
    return SyntheticShapes(tmp_path / "pictures", num_train=10, num_dev=4, size=48).read("train")


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def images() -> dict[str, Regions]:
    return {f"{seed}.jpg": random_regions(seed, size=(60 + seed, 40)) for seed in range(10)}


@pytest.fixture
def pictures(tmp_path):
    return SyntheticShapes(tmp_path / "pictures", num_train=10, num_dev=4, size=48).read("train")
