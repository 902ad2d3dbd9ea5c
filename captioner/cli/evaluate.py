"""`captioner evaluate`: run a model on a split, free-running, and score its captions."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

from captioner.cli.arguments.photos import add_model_arguments, load_captioner
from captioner.cli.arguments.scores import add_score_arguments, print_scores
from captioner.cli.arguments.search import add_search_arguments, find_search, find_wording
from captioner.files import write_whole


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "--data", required=True, metavar="CONFIG_OR_FOLDER", help="a training config (.yaml), or a data set's folder"
    )
    parser.add_argument("--split", help="the split to caption (default dev, or the only one)")
    parser.add_argument("--output", required=True, metavar="DIR", help="the folder for metrics.json and captions.json")
    add_model_arguments(parser)
    add_search_arguments(parser)
    add_score_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Write `captions.json` (the COCO server's format) and `metrics.json`, and print the scores."""
    from captioner.data.features.identity import CacheError
    from captioner.data.readers import TextReader, read_data, usual_split
    from captioner.evaluation import evaluate
    from captioner.metrics import find_tokenizer, write_results

    search, wording = find_search(args), find_wording(args)
    tokenizer = None if args.tokenizer is None else find_tokenizer(args.tokenizer)
    reader = read_data(args.data)
    split = args.split or usual_split(reader.splits, args.data)
    items = reader.read(split)
    training = [text for item in reader.items("train") for text in item.captions] if "train" in reader.splits else None
    captioner = load_captioner(args, text=isinstance(reader, TextReader))
    missing = captioner.source.check(items)
    if missing:
        raise CacheError(f"{len(missing)} images are not among the features; the first: {missing[0]}")
    folder = Path(args.output)
    folder.mkdir(parents=True, exist_ok=True)  # now, so that nothing is lost where it cannot be

    def keep(captions: Mapping[int | str, str]) -> None:
        (folder / "metrics.json").unlink(missing_ok=True)  # of other captions
        write_results(folder / "captions.json", captions)

    result = evaluate(
        captioner,
        items,
        training,
        search,
        wording,
        args.batch_size,
        tokenizer=tokenizer,
        require_meteor=args.meteor,
        keep=keep,
    )
    settings = {
        "model": args.model or "shipped",
        "data": args.data,
        "split": split,
        "search": {"class": type(search).__name__, **vars(search)},
        "wording": vars(wording),
    }
    write_whole(folder / "metrics.json", json.dumps({**settings, **result.metrics}, indent=2) + "\n")
    print_scores(result.metrics, width=17)
    print(f"{'images':<17}{result.metrics['num_scored']:>8}  ({split})")
    print(f"{'tokenizer':<17}{result.metrics['tokenizer']}")
    print(f"{folder / 'metrics.json'}, {folder / 'captions.json'}")
    return 0
