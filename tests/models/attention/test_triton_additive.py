"""The Triton kernels sum what the plain formula sums, forward and backward."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest

KERNELS = """
import torch
from captioner.models.attention import additive, triton_additive
torch.manual_seed(0)
for images, sequences, locations, channels in ((2, 3, 21, 70), (1, 1, 1, 1), (2, 5, 16, 64)):
    query, keys = torch.rand(images, sequences, channels) * 3, torch.rand(images, locations, channels) * 3
    energy, grad = torch.randn(channels), torch.randn(images, sequences, locations)
    found = triton_additive.weighted_sums(query, keys, energy), *triton_additive.slope_sums(query, keys, grad)
    expected = additive.weighted_sums(query, keys, energy), *additive.slope_sums(query, keys, grad)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
"""


@pytest.mark.skipif(find_spec("triton") is None, reason="there is no Triton for this system")
def test_triton_kernels_sum_the_same():
    """In Triton's interpreter, which needs no GPU; it is chosen when the kernels are imported."""
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, "-c", KERNELS], env=environment, capture_output=True, text=True)
    if "only 0-dimensional arrays can be converted" in done.stderr:
        pytest.skip("the interpreter of this Triton does not go with this numpy")
    assert done.returncode == 0, done.stderr
