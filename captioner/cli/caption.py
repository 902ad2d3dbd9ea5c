"""`captioner caption`: a line per photo, or a JSONL or CSV file; or a folder of chunks, by Ray."""

from __future__ import annotations

import argparse
import csv
import json
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from captioner.cli.arguments.bulk import CHUNK_SIZE, OF_RAY, SUFFIXES, run_bulk
from captioner.cli.arguments.photos import (
    add_model_arguments,
    add_paths,
    find_inputs,
    load_captioner,
    one_line,
    positive,
    report,
)
from captioner.cli.arguments.search import add_num_best, add_search_arguments, find_search, find_wording
from captioner.files import held, kept, whole_text

if TYPE_CHECKING:
    from captioner.predictors import Caption


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_paths(parser)
    add_model_arguments(parser)
    add_num_best(parser)
    parser.add_argument(
        "--output",
        metavar="FILE",
        help="write a .jsonl or .csv file instead of printing lines; with --engine ray the folder of the chunks",
    )
    add_search_arguments(parser)
    bulk = parser.add_argument_group("bulk captioning")
    bulk.add_argument(
        "--engine",
        choices=("local", "ray"),
        default="local",
        help="ray writes chunks into a folder, on one machine or many, and goes on where a killed run stopped",
    )
    bulk.add_argument("--workers", type=positive, metavar="N", help="default: one per GPU, or per CPU without GPUs")
    bulk.add_argument("--ray-address", metavar="A", help="a Ray cluster to join, or auto; default: this machine alone")
    bulk.add_argument(
        "--chunk-size",
        "--part-size",  # its name in 0.1.0
        type=positive,
        metavar="N",
        help=f"photos of a chunk (default {CHUNK_SIZE}); a tar shard is one",
    )
    bulk.add_argument("--format", choices=("parquet", "jsonl"), help="of the chunks (default parquet)")
    bulk.add_argument(
        "--retry-errors", action="store_true", help="caption chunks again that hold photos which could not be read"
    )
    bulk.add_argument("--column", metavar="NAME", help="of paths in parquet files (default: image, file, path, ...)")


def run(args: argparse.Namespace) -> int:
    """Caption the photos; 1 if some could not be read."""
    if args.engine == "ray":
        return run_bulk(args)
    for name in OF_RAY:
        if getattr(args, name):
            raise ValueError(f"--{name.replace('_', '-')} belongs to --engine ray")
    if tables := [path for path in args.paths if path.lower().endswith(".parquet")]:
        raise ValueError(f"{tables[0]}: lists of photos in parquet files are read with --engine ray")
    if args.output and Path(args.output).suffix.lower() not in SUFFIXES:
        raise ValueError(f"--output {args.output}: the file's name must end in {' or '.join(SUFFIXES)}")
    from captioner.progress import progress_bar
    from captioner.types import InputError

    search, wording = find_search(args, args.num_best), find_wording(args)
    paths, num_problems = find_inputs(args)
    if not paths:
        return 1
    with _held(args.output) if args.output else nullcontext(_nothing) as check:
        model = load_captioner(args, args.text)
        results = model.stream(paths, search, wording, args.batch_size, args.num_best, maps=False)
        total = len(paths) if isinstance(paths, list) else None  # of shards it is known at their end
        num_written = 0
        interruption: BaseException | None = None
        file = whole_text(args.output, newline="") if args.output else nullcontext(sys.stdout)
        with ending_by_exception(), file as output:
            write = _writer(args.output, output)
            try:
                with progress_bar("captioning", total, visible=bool(args.output)) as bar:
                    for path, result in results:
                        if isinstance(result, InputError):
                            num_problems += report([result], bar.say)
                        else:
                            write(str(path), result)
                            output.flush()
                            num_written += 1
                            check()
                        bar.advance()
            except BaseException as error:
                if not num_written:
                    raise  # what was there before stays
                interruption = error  # once what is done is in its file
        if interruption is not None:
            raise interruption
    return 1 if num_problems else 0


@contextmanager
def _held(output: str) -> Iterator[Callable[[], None]]:
    """Hold a file for writing, and make sure that its folder stays: gives what raises where it is gone."""
    with held(output), kept(Path(output).parent) as check:
        yield check


def _nothing() -> None:
    """What a run needs to check that writes no file."""


@contextmanager
def ending_by_exception() -> Iterator[None]:
    """Where the system asks the process to end (a time limit, say), raise, so that what is done can be kept."""
    if threading.current_thread() is not threading.main_thread():
        yield  # no signal comes here
        return
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


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
