"""`python benchmarks/run.py`: measure ours against the textbook; see the package's docstring, or --help."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date
from math import inf
from os import cpu_count
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the package's folder is not there when this file is run

import torch

from benchmarks import captioning, images, machine, startup
from benchmarks.measure import Side, count, interleave
from benchmarks.memory import NUM_SIDES, TITLES, is_bf16, is_compiled, peak_memory
from benchmarks.table import Row, headline, rows_of, rows_of_samples, table
from benchmarks.training import (
    COMPILED_GRAPHS,
    DEFAULT,
    FOR_INFORMATION,
    GRAPHS,
    OURS_COMPILED,
    OURS_EAGER,
    TUTORIALS,
    Format,
    TrainingWork,
)
from benchmarks.workload import Sizes, sizes_for
from captioner.cli.allocator import keep_freed_memory
from captioner.devices import has_bf16

RESULTS = Path(__file__).parent / "results"
NUM_BATCHES = 3  # that the decoder's training steps take in turn
COUNTING = 10.0  # seconds after the deadline
LIVE_ROUNDS = 3  # at most, of whole training steps: on a CPU the textbook's takes a minute


@dataclass(frozen=True)
class Bench:
    """A run: what every case needs to know.

    Attributes:
        sizes: how large everything is.
        device: where it computes.
        rounds: how many are measured.
        threads: how many compute.
        quick: whether the sizes are the small ones.
        compiled: whether compiled sides take part.
        rates: what the machine attains.
        folder: for photos.
        deadline: when to end, see `interleave`; counting work ends a little later.
        keep: is given each case's rows as soon as they are measured, and once more when its work is counted.
    """

    sizes: Sizes
    device: torch.device
    rounds: int
    threads: int
    quick: bool
    compiled: bool
    rates: dict[str, float]
    folder: Path
    deadline: float = inf
    keep: Callable[[list[Row]], None] = lambda rows: None

    def timed(self, title: str, unit: str, sides: Sequence[Side], most: int | None = None) -> list[Row]:
        """Time a case, in `most` rounds at most."""
        rounds = min(self.rounds, most or self.rounds)
        measured = interleave(sides, rounds, self.device, say, self.deadline)
        timings = [timing for _, timing in measured]
        self.keep(rows_of(title, unit, timings, self.rates))
        count(measured, self.deadline + COUNTING)
        rows = rows_of(title, unit, timings, self.rates)
        self.keep(rows)
        return rows

    def formats(self, *formats: Format) -> list[Format]:
        """Those of these that take part; bf16 where it is emulated does not, unless it is quick."""
        on_gpu = self.device.type == "cuda"
        some = [how for how in formats if (self.compiled or not how.compiled) and (on_gpu or not how.graphs)]
        return [how for how in some if self.fast_bf16 or not how.bf16]

    @property
    def fast_bf16(self) -> bool:
        """Whether bf16 is worth measuring."""
        return self.quick or has_bf16(self.device)


def say(text: str) -> None:
    """Tell how far it is, at once; the table alone goes to standard output."""
    print(text, file=sys.stderr, flush=True)


def decoder_step(bench: Bench) -> list[Row]:
    """The decoder's training step: features given, no gradient to them."""
    work = TrainingWork(bench.sizes, bench.device, NUM_BATCHES)
    sides = [work.side(how) for how in (TUTORIALS, OURS_EAGER)]
    others = (GRAPHS, DEFAULT, COMPILED_GRAPHS, OURS_COMPILED, *FOR_INFORMATION)  # the first go where time is short
    sides += [work.side(how, optional=True) for how in bench.formats(*others)]
    if not bench.fast_bf16:  # what it costs, once
        emulated = work.side(Format(True, bf16=True), optional=True)
        sides.append(replace(emulated, name=f"{emulated.name}, emulated", counted=None, most_rounds=1))
    return bench.timed("Decoder training step", "captions/s", sides)


def train_step(bench: Bench) -> list[Row]:
    """The whole training step with a live, frozen CNN."""
    work = TrainingWork(bench.sizes, bench.device, num_batches=1, live=True)
    sides = [work.side(how) for how in (TUTORIALS, OURS_EAGER, *bench.formats(Format(True, bf16=True)))]
    sides += [work.side(how, optional=True) for how in bench.formats(GRAPHS, DEFAULT, COMPILED_GRAPHS)]
    return bench.timed(f"Training step, frozen {bench.sizes.network}", "captions/s", sides, LIVE_ROUNDS)


def finetune_step(bench: Bench) -> list[Row]:
    """The whole training step, the CNN trained as well: on a GPU alone, where it fits, or with small sizes."""
    title = f"Training step, fine-tuned {bench.sizes.network}"
    if bench.device.type != "cuda" and not bench.quick:
        return [Row(title, "on a GPU", "captions/s", None, [])]
    work = TrainingWork(bench.sizes, bench.device, num_batches=1, live=True, fine_tuned=True)
    sides = [work.side(how) for how in (TUTORIALS, OURS_EAGER, *bench.formats(Format(True, bf16=True)))]
    sides += [work.side(how, optional=True) for how in bench.formats(GRAPHS, DEFAULT, COMPILED_GRAPHS)]
    return bench.timed(title, "captions/s", sides, LIVE_ROUNDS)


def caption(bench: Bench) -> list[Row]:
    """Photos in files to captions; on a GPU, which waits for files, also photos that are in memory."""
    sides = captioning.captioning(bench.sizes, bench.device, bench.folder)
    title = f"Captioning {bench.sizes.num_photos} photos, beam {bench.sizes.beam_size}"
    rows = bench.timed(title, "images/s", sides)
    beam_sizes = (1, 3, 5) if bench.device.type == "cuda" else (3,) if bench.quick else ()
    for beam_size in beam_sizes:
        if time.monotonic() > bench.deadline:
            say(f"  beam {beam_size}: left out, there is no time for it")
            continue
        sides = captioning.from_memory(bench.sizes, bench.device, beam_size)
        rows += bench.timed(f"Captioning photos in memory, beam {beam_size}", "images/s", sides, LIVE_ROUNDS)
    return rows


def bulk(bench: Bench) -> list[Row]:
    """The command on a folder of photos, from its start to the file of captions."""
    sides = captioning.command(bench.sizes, bench.device, bench.folder)
    return bench.timed(f"`captioner caption`, {bench.sizes.num_in_bulk} photos", "images/s", sides, LIVE_ROUNDS)


def features(bench: Bench) -> list[Row]:
    """The CNN alone."""
    sides = images.feature_extraction(bench.sizes, bench.device, bench.fast_bf16)
    return bench.timed(f"Features of {bench.sizes.network}", "images/s", sides)


def loader(bench: Bench) -> list[Row]:
    """JPEG decoding and transforms alone."""
    rows = []
    for width, height in ((500, 375), bench.sizes.large_photo):
        for num_workers in (0, bench.threads):
            sides = images.loading(bench.sizes, bench.folder / f"{width}", num_workers, (width, height))
            title = f"Loading photos of {width} x {height}, {num_workers} workers"
            rows += bench.timed(title, "images/s", sides)
    return rows


def memory(bench: Bench) -> list[Row]:
    """The peak memory of each case; on a GPU its rows have it."""
    if bench.device.type == "cuda":
        return []
    rows = []
    for case, num_sides in NUM_SIDES.items():
        samples = {}
        for number in range(num_sides):
            runs = bench.compiled or not is_compiled(case, number)
            if runs and (bench.fast_bf16 or not is_bf16(case, number)):
                name, peak = peak_memory(case, number, bench.quick, bench.threads)
                samples[name] = [peak]
                say(f"  {case}, {name}: {peak:,.0f} MB")
        rows += rows_of_samples(f"Peak memory, {TITLES[case]}", "MB", samples, compared=True)
    return rows


def start_up(bench: Bench) -> list[Row]:
    """What one waits for."""
    samples = startup.start_up(bench.rounds, str(bench.device), bench.folder, say)
    return rows_of_samples("Start-up", "s", samples, compared=False)


CASES: dict[str, Callable[[Bench], list[Row]]] = {
    "decoder_step": decoder_step,
    "memory": memory,
    "train_step": train_step,
    "finetune_step": finetune_step,
    "captioning": caption,
    "bulk": bulk,
    "features": features,
    "loader": loader,
    "startup": start_up,
}


def run(args: argparse.Namespace, output: Path) -> dict[str, Any]:
    """Measure; the results lie in the file as soon as a case is done, so that a later one can lose nothing."""
    keep_freed_memory()  # as the command does; the textbook has it, too
    torch.set_num_threads(args.threads)
    torch.backends.cudnn.allow_tf32 = False  # fp32 means fp32 on both sides
    device = torch.device(args.device)
    sizes = sizes_for(device, args.quick)
    results: dict[str, Any] = {
        "machine": machine.describe(device, args.threads),
        "attainable": machine.attainable(device, args.quick),
        "sizes": asdict(sizes),
        "rounds": args.rounds,
        "freed_memory_kept": True,
        "rows": [],
    }
    say(headline(results["machine"], results["attainable"]))
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        options = (args.rounds, args.threads, args.quick, not args.no_compile, results["attainable"], Path(folder))
        bench = Bench(sizes, device, *options)
        for name in args.cases:
            say(f"{name}:")
            results["rows"] += [row.as_dict() for row in CASES[name](bench)]
            output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return results


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Measure captioner against a textbook implementation.")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES), metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--rounds", type=int, default=5, help="rounds that are measured (default 5)")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--threads", type=int, default=cpu_count(), help="threads that compute (default: all cores)")
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it runs; ratios mean nothing")
    parser.add_argument("--no-compile", action="store_true", help="leave compiled sides out")
    parser.add_argument("--output", type=Path, help="the JSON file (default: benchmarks/results/DATE-DEVICE.json)")
    parser.add_argument("--markdown", type=Path, metavar="JSON", help="print the table of a run made before, no more")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table, write the JSON; or print the table of a file."""
    args = parse(arguments)
    if args.markdown:
        results = json.loads(args.markdown.read_text(encoding="utf-8"))
        print(headline(results["machine"], results["attainable"]), "", table(results["rows"], markdown=True), sep="\n")
        return 0
    size = "-quick" if args.quick else ""
    part = "" if args.cases == list(CASES) else "-" + "-".join(args.cases)
    output = args.output or RESULTS / f"{date.today().isoformat()}-{args.device}{size}{part}.json"
    results = run(args, output)
    print(headline(results["machine"], results["attainable"]), "", table(results["rows"]), "", output, sep="\n")
    if args.quick:
        print("The sizes were small: ratios mean nothing.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
