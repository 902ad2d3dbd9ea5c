"""Devices by name, their number formats, and answers from them."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

from captioner.devices import fetched, find_device, has_bf16

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("able", "expected"),
    [
        ({"avx2": True, "avx512_f": True, "avx512_bf16": False, "amx_bf16": False}, False),
        ({"avx512_bf16": True}, True),
        ({"amx_bf16": True}, True),
        ({"architecture": "aarch64", "bf16": True}, True),
        ({"architecture": "aarch64", "bf16": False}, False),
    ],
)
def test_a_processor_is_asked_for_its_units(monkeypatch, able, expected):
    """AVX-512 alone does not make one: there torch emulates bfloat16."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able, raising=False)
    assert has_bf16(CPU) is expected
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert has_bf16(CPU) is False  # nothing would use the units


@pytest.mark.parametrize(("bf16", "tile"), [(False, False), (True, False), (False, True)])
def test_an_older_torch_is_asked_otherwise(monkeypatch, bf16, tile):
    older = SimpleNamespace(_is_avx512_bf16_supported=lambda: bf16, _is_amx_tile_supported=lambda: tile)
    monkeypatch.setattr(torch, "cpu", older)
    assert has_bf16(CPU) is (bf16 or tile)


def test_a_gpu_that_emulates_counts_as_one_without(monkeypatch):
    asked = {}

    def supported(including_emulation: bool) -> bool:
        asked["including_emulation"] = including_emulation
        return True

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    monkeypatch.setattr(torch.cuda, "device", nullcontext)  # there is none here
    assert has_bf16(CUDA)
    assert asked == {"including_emulation": False}
    assert not has_bf16(torch.device("mps"))


def test_an_answer_that_is_here_is_read_as_it_is():
    assert fetched(torch.tensor([True, False]))().tolist() == [True, False]


def test_devices():
    assert find_device("cpu") == torch.device("cpu")
    assert find_device("auto").type in ("cpu", "cuda", "mps")
    for name in ("gpu", "cuda:99", "", "cpu:x", "meta"):
        with pytest.raises(ValueError, match=f"device '{name}' cannot be used here: ") as caught:
            find_device(name)
        assert "\n" not in str(caught.value)
