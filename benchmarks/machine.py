"""The machine at hand: what it is, and the rates that it can attain."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Callable
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

import torch

import captioner
from benchmarks.measure import timed
from captioner.devices import has_bf16

FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
PRODUCT_SIDE = {"cpu": 2048, "cuda": 8192}  # a GPU needs more to be busy
COPY_BYTES = 2**28
QUICK_SIDE, QUICK_BYTES = 256, 2**22
REPEATS = 8


def describe(device: torch.device, threads: int) -> dict[str, Any]:
    """What is measured on, and with."""
    cpu = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").is_file() else ""
    model = re.search(r"^model name\s*:\s*(.*)$", cpu, re.MULTILINE)
    flags = set(cpu[cpu.find("\nflags") :].partition("\n\n")[0].split())
    on_cuda = device.type == "cuda"
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "cpu": model[1] if model else platform.processor(),
        "cores": os.cpu_count(),
        "flags": [flag for flag in FLAGS if flag in flags],
        "bf16_units": has_bf16(device),
        "threads": threads,
        "device": device.type,
        "gpu": torch.cuda.get_device_name(device) if on_cuda else None,
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "captioner": captioner.__version__,
        "load": _load(),
    }


def _load() -> float | None:
    """Processes that want to run, over the last minute; 0 on a quiet machine."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def attainable(device: torch.device, quick: bool = False) -> dict[str, float]:
    """Rates that large operations reach: FLOP/s of products in "float32" and "bfloat16", and "copy" in bytes/s."""
    full_side = QUICK_SIDE if quick else PRODUCT_SIDE[device.type]
    num_bytes = QUICK_BYTES if quick else COPY_BYTES
    rates = {}
    for dtype in (torch.float32, torch.bfloat16):
        emulated = dtype == torch.bfloat16 and not has_bf16(device)
        side = QUICK_SIDE if emulated else full_side  # a large one would take minutes
        left, right = torch.randn(2, side, side, device=device, dtype=dtype)
        rates[str(dtype).removeprefix("torch.")] = 2 * side**3 / _best(partial(torch.mm, left, right), device)
    source = torch.ones(num_bytes // 4, device=device)
    rates["copy"] = 2 * num_bytes / _best(partial(torch.empty_like(source).copy_, source), device)
    return rates


def _best(work: Callable[[], Any], device: torch.device) -> float:
    work()
    return min(timed(work, device) for _ in range(REPEATS))
