"""`captioner caption`: a line per photo, or a JSONL or CSV file; or a folder of parts, by Ray."""

from __future__ import annotations

import argparse
import csv
import importlib.util
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from captioner.cli.allocator import keep_freed_memory
from captioner.cli.common import (
    add_model_arguments,
    add_paths,
    find_inputs,
    load_captioner,
    one_line,
    positive,
    report,
)
from captioner.cli.searching import add_num_best, add_search_arguments, find_search, find_wording

if TYPE_CHECKING:
    from captioner.bulk import Job, Plan
    from captioner.predictor import Caption

SUFFIXES = (".jsonl", ".csv")
PART_SIZE = 1000
LOG_INTERVAL = 30.0  # seconds between two lines of how far a bulk run is
OF_RAY = ("workers", "ray_address", "part_size", "format", "column", "retry_errors")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_paths(parser)
    add_model_arguments(parser)
    add_num_best(parser)
    parser.add_argument(
        "--output",
        metavar="FILE",
        help="write a .jsonl or .csv file instead of printing lines; with --engine ray the folder of the parts",
    )
    add_search_arguments(parser)
    bulk = parser.add_argument_group("bulk captioning")
    bulk.add_argument(
        "--engine",
        choices=("local", "ray"),
        default="local",
        help="ray writes parts into a folder, on one machine or many, and goes on where a killed run stopped",
    )
    bulk.add_argument("--workers", type=positive, metavar="N", help="default: one per GPU, or per CPU without GPUs")
    bulk.add_argument("--ray-address", metavar="A", help="a Ray cluster to join, or auto; default: this machine alone")
    bulk.add_argument(
        "--part-size", type=positive, metavar="N", help=f"photos of a part (default {PART_SIZE}); a tar shard is one"
    )
    bulk.add_argument("--format", choices=("parquet", "jsonl"), help="of the parts (default parquet)")
    bulk.add_argument(
        "--retry-errors", action="store_true", help="caption parts again that hold photos which could not be read"
    )
    bulk.add_argument("--column", metavar="NAME", help="of paths in parquet files (default: image, file, path, ...)")


def run(args: argparse.Namespace) -> int:
    """Caption the photos; 1 if some could not be read."""
    if args.engine == "ray":
        return _run_bulk(args)
    for name in OF_RAY:
        if getattr(args, name):
            raise ValueError(f"--{name.replace('_', '-')} belongs to --engine ray")
    if tables := [path for path in args.paths if path.lower().endswith(".parquet")]:
        raise ValueError(f"{tables[0]}: lists of photos in parquet files are read with --engine ray")
    if args.output and Path(args.output).suffix.lower() not in SUFFIXES:
        raise ValueError(f"--output {args.output}: the file's name must end in {' or '.join(SUFFIXES)}")
    from captioner.data.images import InputError
    from captioner.progress import progress_bar

    search, wording = find_search(args, args.num_best), find_wording(args)
    paths, num_problems = find_inputs(args)
    if not paths:
        return 1
    total = len(paths) if isinstance(paths, list) else None  # of shards it is known at their end
    model = load_captioner(args, args.text)
    results = model.stream(paths, search, wording, args.batch_size, args.num_best, maps=False)
    output = _open(args.output) if args.output else sys.stdout
    try:
        write = _writer(args.output, output)
        with progress_bar("captioning", total, visible=bool(args.output)) as bar:
            for path, result in results:
                if isinstance(result, InputError):
                    num_problems += report([result], bar.say)
                else:
                    write(str(path), result)
                    output.flush()
                bar.advance()
    finally:
        if args.output:
            output.close()
    return 1 if num_problems else 0


def _open(name: str) -> TextIO:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("w", encoding="utf-8", errors="backslashreplace", newline="")


def _writer(name: str | None, output: TextIO) -> Callable[[str, Caption], None]:
    """How a result is written: as readable lines, a JSON object or rows; the best first."""
    if name is None:

        def print_lines(path: str, caption: Caption) -> None:
            print(one_line(f"{path}: {caption.text}"), file=output)
            for other in caption.others:
                print(one_line(f"{' ' * len(path)}  {other.text}"), file=output)

        return print_lines
    if name.lower().endswith(".jsonl"):
        from captioner.bulk import record

        def write_json(path: str, caption: Caption) -> None:
            output.write(json.dumps(record(path, caption), ensure_ascii=False) + "\n")

        return write_json
    rows = csv.writer(output)
    rows.writerow(["image", "caption", "words", "log_prob"])

    def write_rows(path: str, caption: Caption) -> None:
        rows.writerow([path, caption.text, " ".join(caption.words), caption.log_prob])
        rows.writerows([path, other.text, other.text, other.log_prob] for other in caption.others)

    return write_rows


# ------------------------------------------------------------------------------------------ bulk


def _run_bulk(args: argparse.Namespace) -> int:
    """Caption into a folder of parts by Ray; 1 if some photos in it could not be read, or were not planned."""
    if not args.output:
        raise ValueError("--engine ray needs --output DIR, the folder of the parts")
    if args.text:
        raise ValueError("--text belongs to --engine local")
    if ":" in args.device:
        raise ValueError(
            f"--device {args.device}: with --engine ray each worker has a GPU of its own; give cuda or cpu"
        )
    if missing := [name for name in ("ray", "pyarrow") if importlib.util.find_spec(name) is None]:
        raise ValueError(f"--engine ray needs {' and '.join(missing)}: pip install 'ray[data]' pyarrow")
    output = Path(args.output)
    if output.suffix.lower() in SUFFIXES or output.is_file():
        raise ValueError(
            f"--output {output}: with --engine ray it is a folder, of parts (--format jsonl: of JSON lines)"
        )
    from captioner.bulk import PLAN, WORKSHOP, Plan, find_work
    from captioner.data.feature_cache import locked

    job = _job(args)
    settings = job.settings()
    work, problems = find_work(args.paths, args.part_size or PART_SIZE, args.column)
    num_problems = report(problems)
    if not work:
        return 1
    if (
        output.is_dir()
        and not (output / PLAN).exists()
        and any(not file.name.startswith(".") for file in output.iterdir())
    ):
        raise ValueError(f"--output {output}: holds other files, and was not begun by a bulk run: give a new folder")
    with locked(output / WORKSHOP):
        if (output / PLAN).exists():
            plan = Plan(output)
            plan.require(settings)
            plan.sweep()
            if num_new := plan.num_new(work):
                num_problems += num_new
                print(
                    f"captioner: {args.output}: {num_new:,} photos (or shards) are not in its plan, which the first "
                    "run made: give another output folder for them",
                    file=sys.stderr,
                )
        else:
            plan = Plan.make(output, settings, work)
        num_problems += _caption_missing(args, plan, job)
        plan.sweep()
    return 1 if num_problems else 0


def _job(args: argparse.Namespace) -> Job:
    """How to caption, for workers that may be elsewhere."""
    from captioner.bulk import Job
    from captioner.predictor import SHIPPED_MODEL

    return Job(
        str(Path(args.model or SHIPPED_MODEL).absolute()),
        find_search(args, args.num_best),
        find_wording(args),
        args.num_best,
        args.format or "parquet",
        args.batch_size,
        args.device,
        tuple(args.trust),
        args.cache and str(Path(args.cache).absolute()),
        args.regions and str(Path(args.regions).absolute()),
        args.precision,
    )


def _caption_missing(args: argparse.Namespace, plan: Plan, job: Job) -> int:
    """Caption what is not done yet; the number of photos of the whole output that could not be read."""
    from captioner.bulk import done_before, ray_cluster, run_parts
    from captioner.progress import progress_bar

    before = done_before(plan)
    again = {number for number, counts in before.items() if counts.errors} if args.retry_errors else set()
    before = {number: counts for number, counts in before.items() if number not in again}
    missing = [part._replace(again=part.number in again) for part in plan.parts if part.number not in before]
    images, errors = 0, sum(counts.errors for counts in before.values())
    begun = said = time.monotonic()

    def state() -> str:
        rate = images / (time.monotonic() - begun)
        return f"captioner: {images:,} photos, {rate:.1f} per second; {errors:,} could not be read"

    if missing:
        print(f"captioner: starting Ray; parts to do: {len(missing):,}", file=sys.stderr)
        with ray_cluster(args.ray_address), progress_bar("captioning", sum(part.size for part in missing)) as bar:
            begun = said = time.monotonic()
            for done in run_parts(plan, job, missing, args.workers, keep_freed_memory):
                images, errors = images + done.images, errors + done.errors
                bar.advance(plan.parts[done.part].size)
                if done.tries > 1:
                    bar.say(f"captioner: part {done.part}: its worker died, and another one did it")
                if time.monotonic() - said > LOG_INTERVAL:
                    said = time.monotonic()
                    bar.say(state())
    earlier = f" ({len(before)} of {len(plan.parts)} parts were done before)" if before else ""
    print(f"{state()}{earlier}; the parts are in {args.output}", file=sys.stderr)
    return errors
