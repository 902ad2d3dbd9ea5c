"""`captioner caption`: a line per photo, or a JSONL or CSV file."""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from captioner.cli.common import add_model_arguments, add_paths, find_inputs, load_captioner, one_line, report
from captioner.cli.searching import add_num_best, add_search_arguments, find_search, find_wording

if TYPE_CHECKING:
    from captioner.predictor import Caption

SUFFIXES = (".jsonl", ".csv")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_paths(parser)
    add_model_arguments(parser)
    add_num_best(parser)
    parser.add_argument("--output", metavar="FILE", help="write a .jsonl or .csv file instead of printing lines")
    add_search_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Caption the photos; 1 if some could not be read."""
    if args.output and Path(args.output).suffix.lower() not in SUFFIXES:
        raise ValueError(f"--output {args.output}: the file's name must end in {' or '.join(SUFFIXES)}")
    from captioner.data.images import InputError
    from captioner.progress import progress_bar

    search, wording = find_search(args, args.num_best), find_wording(args)
    paths, num_problems = find_inputs(args)
    if not paths:
        return 1
    model = load_captioner(args, args.text)
    results = model.stream(paths, search, wording, args.batch_size, args.num_best)
    output = _open(args.output) if args.output else sys.stdout
    try:
        write = _writer(args.output, output)
        with progress_bar("captioning", len(paths), visible=bool(args.output)) as bar:
            for path, result in results:
                if isinstance(result, InputError):
                    num_problems += report([result], bar.say)
                else:
                    write(path, result)
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

        def write_json(path: str, caption: Caption) -> None:
            record = {"image": path, "caption": caption.text, "words": caption.words, "log_prob": caption.log_prob}
            if caption.others:
                record["others"] = [{"caption": other.text, "log_prob": other.log_prob} for other in caption.others]
            output.write(json.dumps(record, ensure_ascii=False) + "\n")

        return write_json
    rows = csv.writer(output)
    rows.writerow(["image", "caption", "words", "log_prob"])

    def write_rows(path: str, caption: Caption) -> None:
        rows.writerow([path, caption.text, " ".join(caption.words), caption.log_prob])
        rows.writerows([path, other.text, other.text, other.log_prob] for other in caption.others)

    return write_rows
