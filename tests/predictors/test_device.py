"""Devices by name."""

from __future__ import annotations

import pytest
import torch

from captioner.predictors import find_device


def test_devices():
    assert find_device("cpu") == torch.device("cpu")
    assert find_device("auto").type in ("cpu", "cuda", "mps")
    for name in ("gpu", "cuda:99", "", "cpu:x"):
        with pytest.raises(ValueError, match=f"device '{name}' cannot be used here: ") as caught:
            find_device(name)
        assert "\n" not in str(caught.value)
