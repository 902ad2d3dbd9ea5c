"""What a training step does to a device: how much of the time it is busy, with what, and what the host launches.

    python -m benchmarks.trace --output trace.json.gz

"Busy" is the share of the time, from the first kernel of the traced steps to the end of their last, in which at least
one kernel runs. On a CPU, where it is a rehearsal, operators stand for kernels.
"""

from __future__ import annotations

import argparse
import gzip
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.measure import synchronise, timed
from benchmarks.training import COMPILED_GRAPHS, DEFAULT, GRAPHS, OURS_EAGER, Format, TrainingWork
from benchmarks.workload import Sizes, sizes_for

ON_A_GPU = (Format(True, bf16=True), GRAPHS, DEFAULT, COMPILED_GRAPHS)  # what is compiled takes longest
STEPS = {"cuda": 4, "cpu": 1}  # that are traced, each of another batch
LAUNCHES = ("cudaLaunch", "cuLaunch", "cudaGraphLaunch", "cudaMemcpy", "cudaMemset")


@dataclass(frozen=True)
class Traced:
    """A step's trace.

    Attributes:
        name: of the format.
        seconds: of a step.
        busy: share of the time in which the device is busy.
        kernels: that run in a step.
        launches: by the host, in a step; a graph is one.
        longest: share of the kernels' time of each of the longest ones, by name.
    """

    name: str
    seconds: float
    busy: float
    kernels: float
    launches: float
    longest: dict[str, float]


def trace_step(work: TrainingWork, how: Format, device: torch.device, output: Path | None = None) -> Traced:
    """Trace some steps.

    Args:
        work: the batches.
        how: the format.
        device: where.
        output: where Chrome's trace is to be written, gzipped, for https://ui.perfetto.dev.
    """
    (step, check), num_steps = work.step(how), STEPS[device.type]
    for number in range(2 * num_steps):  # a loop is recorded as a CUDA graph when its shape comes the second time
        step(number)
    check()
    seconds = timed(lambda: [step(number) for number in range(num_steps)], device) / num_steps
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    with profile(activities=activities) as profiler:
        for number in range(num_steps):
            step(number)
        synchronise(device)
    if output is not None:
        with tempfile.TemporaryDirectory() as folder:
            plain = Path(folder) / "trace.json"
            profiler.export_chrome_trace(str(plain))
            output.write_bytes(gzip.compress(plain.read_bytes()))
    events = list(profiler.events() or ())
    on_host = [event for event in events if event.device_type == DeviceType.CPU]
    on_device = [event for event in events if event.device_type == DeviceType.CUDA and not event.is_user_annotation]
    if device.type != "cuda":
        on_device = [event for event in on_host if event.cpu_parent is None]
    spans = [(event.time_range.start, event.time_range.end) for event in on_device]
    times: Counter[str] = Counter()
    for event in on_device:
        times[event.name] += event.time_range.elapsed_us()
    whole = sum(times.values()) or 1
    return Traced(
        how.name,
        seconds,
        busy_share(spans),
        len(on_device) / num_steps,
        sum(event.name.startswith(LAUNCHES) for event in on_host) / num_steps,
        {name: time / whole for name, time in times.most_common(10)},
    )


def busy_share(spans: Sequence[tuple[float, float]]) -> float:
    """The share of the time, from the first span's start to the last one's end, that lies in any span."""
    if not spans:
        return 0.0
    busy, until = 0.0, min(start for start, _ in spans)
    first = until
    for start, end in sorted(spans):
        busy += max(0.0, end - max(start, until))
        until = max(until, end)
    return busy / (until - first) if until > first else 0.0


def trace(
    device: torch.device,
    sizes: Sizes,
    output: Path | None = None,
    deadline: float = inf,
    keep: Callable[[list[Traced]], None] = lambda traced: None,
) -> list[Traced]:
    """Trace the decoder's training step in the formats that there are on a device.

    Args:
        device: where.
        sizes: how large.
        output: where the trace of the last format is to be written.
        deadline: no format but the first is begun after it, by `time.monotonic`.
        keep: is given what was traced, after each format.
    """
    formats = ON_A_GPU if device.type == "cuda" else (OURS_EAGER,)
    work = TrainingWork(sizes, device, num_batches=STEPS[device.type])
    traced: list[Traced] = []
    for how in formats:
        if traced and time.monotonic() > deadline:
            break
        traced.append(trace_step(work, how, device, output))
        keep(traced)
    return traced


def table(traced: Sequence[dict[str, Any]]) -> str:
    """The traces in Markdown."""
    lines = ["| | step | GPU busy | kernels | launches |", "| --- | ---: | ---: | ---: | ---: |"]
    for row in traced:
        cells = (
            f"{row['seconds'] * 1e3:.1f} ms",
            f"{row['busy']:.0%}",
            f"{row['kernels']:,.0f}",
            f"{row['launches']:,.0f}",
        )
        lines.append(f"| {row['name']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Trace, and print the table."""
    parser = argparse.ArgumentParser(description="Trace the decoder's training step.")
    parser.add_argument("--output", type=Path, help="write Chrome's trace of the last format, gzipped")
    parser.add_argument("--quick", action="store_true", help="small sizes")
    args = parser.parse_args(arguments)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print(table([vars(traced) for traced in trace(device, sizes_for(device, args.quick), args.output)]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
