"""The peak memory of a training step, each side in a fresh process.

    python -m benchmarks.memory '{"is_ours": true, "bf16": true, "compiled": true}' cpu full

prints the peak in bytes, less what was resident before: it counts what a step makes and the features that it is given
(the textbook's are a row per caption), not the weights, Adam's moments or the libraries.
"""

from __future__ import annotations

import ctypes
import gc
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from benchmarks.training import Format, OurStep, TextbookStep, per_caption
from benchmarks.workload import QUICK, Sizes, make_features, training_batches

ROOT = Path(__file__).resolve().parents[1]


def peak_memory(how: Format, device: torch.device, quick: bool, threads: int) -> float:
    """MB of a step's peak, measured in a process of its own.

    Raises:
        RuntimeError: it failed.
    """
    arguments = [json.dumps(asdict(how)), str(device), "quick" if quick else "full", str(threads)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.memory", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"the process that measures {how.name} failed:\n{done.stderr[-2000:]}")
    return float(done.stdout.split()[-1]) / 1e6


def measure(how: Format, device: torch.device, sizes: Sizes) -> int:
    """Bytes of a step's peak. The first step warms up (it compiles, Adam makes its moments); the second counts."""
    step = OurStep(sizes, device, how) if how.is_ours else TextbookStep(sizes, device, how)
    batch = next(training_batches(sizes)).to(device)
    for is_last in (False, True):
        step.optimizer.zero_grad()
        before = _start(device)
        features = make_features(sizes).to(device)
        given = features if how.is_ours else per_caption(features, sizes)
        del features
        step(given, batch)
        if is_last:
            return _peak(device) - before
        del given
    raise AssertionError("unreachable")


def _start(device: torch.device) -> int:
    """Bytes in use now; from here on the peak is watched."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    ctypes.CDLL(None).malloc_trim(0)  # what was freed goes back to the system, so that it is not counted as in use
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    return _status("VmRSS")


def _peak(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _status("VmHWM")


def _status(name: str) -> int:
    """Bytes of a line of /proc/self/status."""
    found = re.search(rf"^{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


def main(arguments: Sequence[str]) -> None:
    """Measure one format."""
    how, device, sizes, threads = arguments
    torch.set_num_threads(int(threads))
    print(measure(Format(**json.loads(how)), torch.device(device), QUICK if sizes == "quick" else Sizes()))


if __name__ == "__main__":
    main(sys.argv[1:])
