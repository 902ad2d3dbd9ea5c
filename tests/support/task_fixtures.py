"""Fixtures of this folder."""

from __future__ import annotations

import pytest

from captioner.data import ImageTransform
from captioner.data.readers import SyntheticShapes
from captioner.tasks.captioning import CaptionData
from captioner.tokenizer import WordLevel


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return SyntheticShapes(tmp_path_factory.mktemp("shapes"), num_train=8, num_dev=5, size=32)


@pytest.fixture
def make_data(pictures):
    def make(**options):
        options = {"batch_size": 4, "eval_batch_size": 2, "num_workers": 0, "vocabulary": WordLevel(1)} | options
        return CaptionData(pictures, ImageTransform(32), **options)

    return make
