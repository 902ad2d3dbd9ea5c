"""Fixtures of this folder."""

from __future__ import annotations

import pytest

from captioner.predictors import Captioner


@pytest.fixture(scope="module")
def model(bundle):
    return Captioner(bundle, "cpu")
