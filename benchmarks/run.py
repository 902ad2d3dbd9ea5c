"""`python benchmarks/run.py`: measure ours against the textbook; see the package's docstring, or --help."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from os import cpu_count
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the package's folder is not there when this file is run

import torch

from benchmarks import captioning, images, machine, startup
from benchmarks.measure import Side, interleave
from benchmarks.memory import peak_memory
from benchmarks.table import Row, headline, rows_of, rows_of_samples, table
from benchmarks.training import (
    DEFAULT,
    FOR_INFORMATION,
    OURS_COMPILED,
    OURS_EAGER,
    TUTORIALS,
    Format,
    TrainingWork,
)
from benchmarks.workload import QUICK, Sizes
from captioner.cli.allocator import keep_freed_memory

RESULTS = Path(__file__).parent / "results"
NUM_BATCHES = 3  # that the decoder's training steps take in turn
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
    """

    sizes: Sizes
    device: torch.device
    rounds: int
    threads: int
    quick: bool
    compiled: bool
    rates: dict[str, float]
    folder: Path

    def timed(self, title: str, unit: str, sides: Sequence[Side], most: int | None = None) -> list[Row]:
        """Time a case, in `most` rounds at most."""
        rounds = min(self.rounds, most or self.rounds)
        return rows_of(title, unit, interleave(sides, rounds, self.device, say), self.rates)

    def formats(self, *formats: Format) -> list[Format]:
        """Those of these that take part."""
        return [how for how in formats if self.compiled or not how.compiled]


def say(text: str) -> None:
    """Tell how far it is, at once; the table alone goes to standard output."""
    print(text, file=sys.stderr, flush=True)


def decoder_step(bench: Bench) -> list[Row]:
    """The decoder's training step: features given, no gradient to them."""
    work = TrainingWork(bench.sizes, bench.device, NUM_BATCHES)
    sides = [work.side(how) for how in bench.formats(TUTORIALS, OURS_EAGER, OURS_COMPILED, DEFAULT)]
    sides += [work.side(how, optional=True) for how in bench.formats(*FOR_INFORMATION)]
    return bench.timed("Decoder training step", "captions/s", sides)


def train_step(bench: Bench) -> list[Row]:
    """The whole training step with a live, frozen CNN."""
    work = TrainingWork(bench.sizes, bench.device, num_batches=1, live=True)
    sides = [work.side(how) for how in bench.formats(TUTORIALS, OURS_EAGER, Format(True, bf16=True), DEFAULT)]
    return bench.timed(f"Training step, frozen {bench.sizes.network}", "captions/s", sides, LIVE_ROUNDS)


def finetune_step(bench: Bench) -> list[Row]:
    """The whole training step, the CNN trained as well: on a GPU alone, where it fits."""
    title = f"Training step, fine-tuned {bench.sizes.network}"
    if bench.device.type != "cuda":
        return [Row(title, "on a GPU", "captions/s", None, [])]
    work = TrainingWork(bench.sizes, bench.device, num_batches=1, live=True, fine_tuned=True)
    sides = [work.side(how) for how in bench.formats(TUTORIALS, OURS_EAGER, DEFAULT)]
    return bench.timed(title, "captions/s", sides, LIVE_ROUNDS)


def caption(bench: Bench) -> list[Row]:
    """Photos in files to captions."""
    sides = captioning.captioning(bench.sizes, bench.device, bench.folder)
    title = f"Captioning {bench.sizes.num_photos} photos, beam {bench.sizes.beam_size}"
    return bench.timed(title, "images/s", sides)


def features(bench: Bench) -> list[Row]:
    """The CNN alone."""
    sides = images.feature_extraction(bench.sizes, bench.device)
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
    """The peak memory of the decoder's training step."""
    title = "Peak memory, decoder training step"
    samples = {}
    for how in bench.formats(TUTORIALS, OURS_EAGER, OURS_COMPILED, DEFAULT):
        samples[how.name] = [peak_memory(how, bench.device, bench.quick, bench.threads)]
        say(f"  {how.name}: {samples[how.name][0]:,.0f} MB")
    return rows_of_samples(title, "MB", samples, compared=True)


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
    "features": features,
    "loader": loader,
    "startup": start_up,
}


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure, and give everything as JSON has it."""
    keep_freed_memory()  # as the command does; the textbook has it, too
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    about = machine.describe(device, args.threads)
    rates = machine.attainable(device, args.quick)
    say(headline(about, rates))
    sizes = QUICK if args.quick else Sizes()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(sizes, device, args.rounds, args.threads, args.quick, not args.no_compile, rates, Path(folder))
        for name in args.cases:
            say(f"{name}:")
            rows += [row.as_dict() for row in CASES[name](bench)]
    return {
        "machine": about,
        "attainable": rates,
        "sizes": asdict(sizes),
        "rounds": args.rounds,
        "freed_memory_kept": True,
        "rows": rows,
    }


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
    results = run(args)
    size = "-quick" if args.quick else ""
    output = args.output or RESULTS / f"{date.today().isoformat()}-{args.device}{size}.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(headline(results["machine"], results["attainable"]), "", table(results["rows"]), "", output, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
