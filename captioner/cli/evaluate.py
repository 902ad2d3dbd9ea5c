"""`captioner evaluate`: run a model on a split, free-running, and score its captions."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from captioner.cli.common import add_model_arguments, load_captioner, read_data


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "--data", required=True, metavar="CONFIG_OR_FOLDER", help="a training config (.yaml), or a data set's folder"
    )
    parser.add_argument("--split", default="dev", help="the split to caption (default dev)")
    parser.add_argument("--output", required=True, metavar="DIR", help="the folder for metrics.json and captions.json")
    parser.add_argument("--length-penalty", type=float, metavar="P", help="of the search; 0 is none (default 0.7)")
    add_model_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Write `captions.json` (the COCO server's format) and `metrics.json`, and print the scores."""
    from captioner.data.feature_cache import CacheError
    from captioner.evaluation import evaluate
    from captioner.metrics import write_results
    from captioner.predictor import LENGTH_PENALTY

    reader = read_data(args.data)
    items = reader.read(args.split)
    training = [text for item in reader.items("train") for text in item.captions] if "train" in reader.splits else None
    captioner = load_captioner(args)
    missing = [] if captioner.cache is None else captioner.cache.check(items)
    if missing:
        raise CacheError(f"{len(missing)} images cannot be read from the cache; the first: {missing[0]}")
    length_penalty = LENGTH_PENALTY if args.length_penalty is None else args.length_penalty
    folder = Path(args.output)
    folder.mkdir(parents=True, exist_ok=True)  # now, so that nothing is lost where it cannot be
    result = evaluate(captioner, items, training, args.beam_size, length_penalty, args.batch_size)
    write_results(folder / "captions.json", result.captions)
    settings = {
        "model": args.model or "shipped",
        "data": args.data,
        "split": args.split,
        "beam_size": args.beam_size,
        "length_penalty": length_penalty,
    }
    (folder / "metrics.json").write_text(json.dumps({**settings, **result.metrics}, indent=2) + "\n", encoding="utf-8")
    for name, value in result.metrics.items():
        if isinstance(value, float):
            print(f"{name:<12}{value:>8.2f}")
    print(f"{'images':<12}{result.metrics['num_scored']:>8}  ({args.split})")
    print(f"{'tokenizer':<12}{result.metrics['tokenizer']}")
    print(f"{folder / 'metrics.json'}, {folder / 'captions.json'}")
    return 0
