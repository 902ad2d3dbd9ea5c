"""`captioner score`: score any results file against a COCO captions file."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from captioner.cli.arguments.scores import add_score_arguments, print_scores
from captioner.files import write_whole


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "--references",
        type=Path,
        required=True,
        metavar="COCO.json",
        help="reference captions in COCO's format",
    )
    parser.add_argument(
        "--results",
        type=Path,
        required=True,
        metavar="RESULTS.json",
        help='the captions to score: [{"image_id": 1, "caption": "..."}, ...]',
    )
    parser.add_argument("--output", type=Path, metavar="METRICS.json", help="write the unrounded scores here")
    add_score_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Score the results, print a table, and write the JSON if it is asked for.

    Raises:
        OSError: when a file cannot be read or written.
        ValueError: when a file is not what it should be, or there is nothing to score.
        JavaError: when what is asked for needs Java, and none starts.
    """
    from captioner.metrics import find_tokenizer, read_references, read_results, score

    references, results = read_references(args.references), read_results(args.results)
    scores = score(references, results, find_tokenizer(args.tokenizer), args.meteor)
    print_scores(scores.metrics(), width=12)
    print(f"{'images':<12}{scores.num_scored:>8}")
    print(f"{'missing':<12}{scores.num_missing:>8}")
    print(f"{'tokenizer':<12}{scores.tokenizer}")
    if args.output is not None:
        write_whole(args.output, json.dumps(scores.to_dict(), indent=2) + "\n")
    return 0
