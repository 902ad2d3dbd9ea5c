"""The peak memory of a case on a CPU, each side in a fresh process.

    python -m benchmarks.memory decoder_step 0 full 2

prints the name of a case's side, by its number, and its peak in bytes, less what was resident before: what the work
makes and, of the decoder's training step, the features that it is given (the textbook's are a row per caption).
Weights, Adam's moments and the libraries are not counted.
"""

from __future__ import annotations

import ctypes
import gc
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.captioning import captioning
from benchmarks.images import feature_extraction
from benchmarks.measure import Side
from benchmarks.training import (
    DEFAULT,
    OURS_COMPILED,
    OURS_EAGER,
    TUTORIALS,
    Format,
    OurStep,
    TextbookStep,
    TrainingWork,
    per_caption,
)
from benchmarks.workload import QUICK, Sizes, make_features, training_batches

CPU = torch.device("cpu")
ROOT = Path(__file__).resolve().parents[1]
FORMATS = (TUTORIALS, OURS_EAGER, DEFAULT, OURS_COMPILED)  # of the decoder's step; the first three of the live one
TITLES = {
    "decoder_step": "decoder training step",
    "train_step": "training step with a live CNN",
    "captioning": "captioning",
    "features": "features",
}
NUM_SIDES = {"decoder_step": 4, "train_step": 3, "captioning": 2, "features": 3}


def is_compiled(case: str, number: int) -> bool:
    """Whether a side is compiled."""
    return case in ("decoder_step", "train_step") and FORMATS[number].compiled


def is_bf16(case: str, number: int) -> bool:
    """Whether a side's products are in bf16."""
    in_steps = case in ("decoder_step", "train_step") and FORMATS[number].bf16
    return in_steps or (case, number) == ("features", 2)


def peak_memory(case: str, number: int, quick: bool, threads: int) -> tuple[str, float]:
    """The name of a side, and MB of its peak, measured in a process of its own.

    Raises:
        RuntimeError: it failed.
    """
    arguments = [case, str(number), "quick" if quick else "full", str(threads)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.memory", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"the process that measures {case} failed:\n{done.stderr[-2000:]}")
    name, num_bytes = done.stdout.strip().splitlines()[-1].split("\t")
    return name, float(num_bytes) / 1e6


def measure_step(how: Format, sizes: Sizes) -> int:
    """Bytes of a decoder step's peak: of the second one, as the first compiles, and makes Adam's moments."""
    step = OurStep(sizes, CPU, how) if how.is_ours else TextbookStep(sizes, CPU, how)
    batch = next(training_batches(sizes))
    for is_last in (False, True):
        step.optimizer.zero_grad()
        before = _start()
        features = make_features(sizes)
        given = features if how.is_ours else per_caption(features, sizes)
        del features
        step(given, batch)
        if is_last:
            return _peak() - before
        del given
    raise AssertionError("unreachable")


def measure_side(side: Side) -> int:
    """Bytes of the peak of a round's work, after one that warms up."""
    side.run(0)
    before = _start()
    side.run(0)
    return _peak() - before


def find_side(case: str, number: int, sizes: Sizes, folder: Path) -> Side:
    """A case's side by its number."""
    if case == "train_step":
        return TrainingWork(sizes, CPU, num_batches=1, live=True).side(FORMATS[number])
    sides = captioning(sizes, CPU, folder) if case == "captioning" else feature_extraction(sizes, CPU)
    return sides[number]


def _start() -> int:
    """Bytes in use now; from here on the peak is watched."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what was freed goes back to the system, so that it is not counted as in use
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    return _status("VmRSS")


def _peak() -> int:
    return _status("VmHWM")


def _status(name: str) -> int:
    """Bytes of a line of /proc/self/status."""
    found = re.search(rf"^{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


def main(arguments: Sequence[str]) -> None:
    """Measure one side."""
    case, number, size, threads = arguments
    torch.set_num_threads(int(threads))
    sizes = QUICK if size == "quick" else Sizes()
    if case == "decoder_step":
        how = FORMATS[int(number)]
        print(how.name, measure_step(how, sizes), sep="\t")
        return
    with tempfile.TemporaryDirectory() as folder:
        side = find_side(case, int(number), sizes, Path(folder))
        print(side.name, measure_side(side), sep="\t")


if __name__ == "__main__":
    main(sys.argv[1:])
