"""`captioner caption`: a line per photo, or a JSONL or CSV file."""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from captioner.cli.common import add_model_arguments, add_paths, load_captioner, one_line, report

if TYPE_CHECKING:
    from captioner.predictor import Caption

SUFFIXES = (".jsonl", ".csv")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_paths(parser)
    add_model_arguments(parser)
    parser.add_argument("--output", metavar="FILE", help="write a .jsonl or .csv file instead of printing lines")


def run(args: argparse.Namespace) -> int:
    """Caption the photos; 1 if some could not be read."""
    if args.output and Path(args.output).suffix.lower() not in SUFFIXES:
        raise ValueError(f"--output {args.output}: the file's name must end in {' or '.join(SUFFIXES)}")
    from captioner.data.images import ImageError, find_images
    from captioner.progress import progress_bar

    paths, problems = find_images(args.paths)
    num_problems = report(problems)
    if not paths:
        return 1
    model = load_captioner(args)
    output = _open(args.output) if args.output else sys.stdout
    try:
        write = _writer(args.output, output)
        with progress_bar("captioning", len(paths), visible=bool(args.output)) as bar:
            for path, result in model.stream(paths, args.beam_size, args.batch_size):
                if isinstance(result, ImageError):
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
    """How a result is written: as a readable line, a JSON object or a row."""
    if name is None:
        return lambda path, caption: print(one_line(f"{path}: {caption.text}"), file=output)
    if name.lower().endswith(".jsonl"):

        def write_json(path: str, caption: Caption) -> None:
            record = {"image": path, "caption": caption.text, "words": caption.words, "log_prob": caption.log_prob}
            output.write(json.dumps(record, ensure_ascii=False) + "\n")

        return write_json
    rows = csv.writer(output)
    rows.writerow(["image", "caption", "words", "log_prob"])
    return lambda path, caption: rows.writerow([path, caption.text, " ".join(caption.words), caption.log_prob])
