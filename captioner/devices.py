"""Devices by name, the number formats that they are fast in, and answers that are read without waiting for them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

EMULATED = "bf16 is emulated, as this {device} has no bfloat16 units: expect it to be several times slower than fp32"
"""What bf16 costs where `has_bf16` is false. (Captioning on an AVX2 processor: 8 times.)"""


def find_device(name: str = "auto") -> torch.device:
    """The device of this name; "auto" is a GPU where there is one.

    Raises:
        ValueError: there is no such device here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros((), device=device).item()  # "meta" has no numbers
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device {name!r} cannot be used here: {reason}") from error
    return device


def has_bf16(device: torch.device) -> bool:
    """Whether a device multiplies matrices in bfloat16 by units of its own; elsewhere torch emulates it slowly.

    torch is asked. A kind of device that is not known here (MPS, say) counts as one without.
    """
    if device.type == "cuda":
        with torch.cuda.device(device):
            return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "xpu":
        return torch.xpu.is_bf16_supported()
    return device.type == "cpu" and torch.backends.mkldnn.is_available() and _cpu_has_bf16()


def _cpu_has_bf16() -> bool:
    """Whether the processor has instructions for it: AVX-512's, AMX's or Arm's."""
    if hasattr(torch.cpu, "get_capabilities"):
        able = torch.cpu.get_capabilities()
        return any(able.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()  # torch 2.6


def fetched(answer: Tensor) -> Callable[[], Tensor]:
    """What reads an answer (of any shape) that was sent for; from a GPU it comes without holding it up."""
    if answer.device.type != "cuda":
        return lambda: answer
    here = torch.empty(answer.shape, dtype=answer.dtype, pin_memory=True)
    here.copy_(answer, non_blocking=True)
    arrived = torch.cuda.current_stream(answer.device).record_event()

    def read() -> Tensor:
        arrived.synchronize()  # waits for this copy, not for what came after
        return here

    return read
