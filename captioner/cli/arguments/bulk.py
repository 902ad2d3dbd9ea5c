"""Bulk captioning from the command line."""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from captioner.cli.allocator import keep_freed_memory
from captioner.cli.arguments.photos import report
from captioner.cli.arguments.search import find_search, find_wording

if TYPE_CHECKING:
    from captioner.bulk import Job, Plan


SUFFIXES = (".jsonl", ".csv")
CHUNK_SIZE = 1000
LOG_INTERVAL = 30.0  # seconds between two lines of how far a bulk run is
OF_RAY = ("workers", "ray_address", "chunk_size", "format", "column", "retry_errors")


def run_bulk(args: argparse.Namespace) -> int:
    """Caption into a folder of chunks by Ray; 1 if some photos in it could not be read, or were not planned."""
    if not args.output:
        raise ValueError("--engine ray needs --output DIR, the folder of the chunks")
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
            f"--output {output}: with --engine ray it is a folder, of chunks (--format jsonl: of JSON lines)"
        )
    from captioner.bulk import PLAN, WORKSHOP, Plan, find_work
    from captioner.files import kept, locked

    job = _job(args)
    settings = job.settings()
    work, problems = find_work(args.paths, args.chunk_size or CHUNK_SIZE, args.column)
    num_problems = report(problems)
    if not work:
        return 1
    if (
        output.is_dir()
        and not (output / PLAN).exists()
        and any(not file.name.startswith(".") for file in output.iterdir())
    ):
        raise ValueError(f"--output {output}: holds other files, and was not begun by a bulk run: give a new folder")
    with locked(output / WORKSHOP), kept(output) as check:
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
        try:
            num_problems += _caption_missing(args, plan, job)
        except RuntimeError:
            check()  # of a worker that failed, as its folder was gone
            raise
        plan.sweep()
    return 1 if num_problems else 0


def _job(args: argparse.Namespace) -> Job:
    """How to caption, for workers that may be elsewhere."""
    from captioner.bulk import Job
    from captioner.predictors import SHIPPED_MODEL

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
    from captioner.bulk import done_before, ray_cluster, run_chunks
    from captioner.progress import progress_bar

    before = done_before(plan)
    again = {number for number, counts in before.items() if counts.errors} if args.retry_errors else set()
    before = {number: counts for number, counts in before.items() if number not in again}
    missing = [chunk._replace(again=chunk.number in again) for chunk in plan.chunks if chunk.number not in before]
    images, errors = 0, sum(counts.errors for counts in before.values())
    begun = said = time.monotonic()

    def state() -> str:
        rate = images / (time.monotonic() - begun)
        return f"captioner: {images:,} photos, {rate:.1f} per second; {errors:,} could not be read"

    if missing:
        print(f"captioner: starting Ray; chunks to do: {len(missing):,}", file=sys.stderr)
        with ray_cluster(args.ray_address), progress_bar("captioning", sum(chunk.size for chunk in missing)) as bar:
            begun = said = time.monotonic()
            for done in run_chunks(plan, job, missing, args.workers, keep_freed_memory):
                images, errors = images + done.images, errors + done.errors
                bar.advance(plan.chunks[done.chunk].size)
                if done.tries > 1:
                    bar.say(f"captioner: chunk {done.chunk}: its worker died, and another one did it")
                if time.monotonic() - said > LOG_INTERVAL:
                    said = time.monotonic()
                    bar.say(state())
    earlier = f" ({len(before)} of {len(plan.chunks)} chunks were done before)" if before else ""
    print(f"{state()}{earlier}; the chunks are in {args.output}", file=sys.stderr)
    return errors
