"""`captioner compare`: train every variant of a config under the same budget, and make one table of them."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from captioner.cli.arguments.photos import add_trust
from captioner.comparison import find_variants, table
from captioner.comparison.results import evaluate_run, require_same, results_of, train_variant
from captioner.comparison.table import draw_maps
from captioner.comparison.variants import digest_of
from captioner.files import write_whole


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "config", metavar="CONFIG", help="the first variant; a folder of the same name holds the others"
    )
    parser.add_argument("--only", nargs="+", metavar="NAME", help="some variants: their files' names, without .yaml")
    parser.add_argument(
        "--seeds", nargs="+", type=int, default=[0], metavar="N", help="train each with these (default 0)"
    )
    parser.add_argument("--runs", default="runs", metavar="DIR", help="the folder for all runs (default runs)")
    parser.add_argument("--output", metavar="FILE", help="write the table to a Markdown file, too")
    parser.add_argument("--figure", metavar="FILE", help="draw where each variant looks in one photo, see --photo")
    parser.add_argument("--photo", metavar="PHOTO", help="the photo of the figure")
    parser.add_argument("--caption", metavar="TEXT", help="the caption of the figure, for all variants")
    add_trust(parser)
    parser.add_argument(
        "--table-only", action="store_true", help="train nothing: the table and figure of what is there"
    )
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="KEY=VALUE", help="change all variants (data.reader.init_args.root=...)"
    )


def run(args: argparse.Namespace) -> int:
    """Train, evaluate, and print the table."""
    if (args.figure is None) != (args.photo is None) or (args.figure is not None and args.caption is None):
        raise ValueError("a figure needs --figure FILE, --photo PHOTO and --caption TEXT together")
    variants = find_variants(Path(args.config))
    if args.only:
        known = {Path(variant.name).name for variant in variants}
        unknown = ", ".join(name for name in args.only if name not in known)
        if unknown:
            raise ValueError(f"no variant {unknown}; there are: {', '.join(sorted(known))}")
        variants = [variant for variant in variants if Path(variant.name).name in args.only]
    runs = Path(args.runs)
    if not args.table_only:
        for seed in args.seeds:
            for variant in variants:
                folder = runs / variant.name / f"seed{seed}"
                digest = digest_of(variant, args.set)
                if (folder / "result.json").exists():
                    require_same(folder / "result.json", digest)
                    continue
                train_variant(variant, seed, folder, args.set)
                result = evaluate_run(folder, seed, digest, args.trust)
                write_whole(folder / "result.json", json.dumps(asdict(result), indent=2) + "\n")
    results = {variant.name: results_of(runs / variant.name) for variant in variants}
    missing = [f"{name} (no seed done)" for name, found in results.items() if not found]
    if missing:
        print(f"captioner: not in the table: {', '.join(missing)}", file=sys.stderr)
    text = table([(variant, results[variant.name]) for variant in variants if results[variant.name]])
    print(text, end="")
    if args.output:
        Path(args.output).parent.mkdir(parents=True, exist_ok=True)
        write_whole(args.output, text)
    if args.figure:
        draw_maps(variants, runs, args.photo, args.caption, Path(args.figure), args.trust)
    return 0
