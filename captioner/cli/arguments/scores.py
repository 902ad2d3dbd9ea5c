"""How captions are scored: the arguments that `score` and `evaluate` share, and the table of the scores."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any


def add_score_arguments(parser: argparse.ArgumentParser) -> None:
    """Which words are scored, and whether METEOR must be."""
    parser.add_argument(
        "--tokenizer",
        choices=("ptb", "builtin"),
        help="ptb, the official one, which needs Java, or builtin, an imitation of it (default ptb where Java starts)",
    )
    parser.add_argument(
        "--meteor",
        action="store_true",
        help="stop if METEOR, which needs Java, cannot be computed (else it is left out)",
    )


def print_scores(scores: Mapping[str, Any], width: int) -> None:
    """A line for each score; what was left out is called so, and what is no score is passed over."""
    for name, value in scores.items():
        if isinstance(value, float | None):
            print(f"{name:<{width}}{'left out' if value is None else f'{value:.2f}':>8}")
