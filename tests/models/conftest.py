"""Fixtures of this folder."""

from __future__ import annotations

import pytest
import torch
from model_cases import Patches

from captioner.models import GridEncoder


@pytest.fixture(params=["a layer", "frozen CNN", "fine-tuned CNN"])
def encoder(request):
    torch.manual_seed(0)
    if request.param == "a layer":
        return Patches()
    stage = None if request.param == "frozen CNN" else "layer4"
    return GridEncoder("timm/test_resnet", "none", output_stride=16, trainable_from=stage)
