"""What the sub-commands that look at photos share: their arguments, and how they report a broken file."""

from __future__ import annotations

import argparse
import re
import sys
from itertools import chain
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from captioner.predictors import Captioner
    from captioner.types import InputError, PackedImage

MAX_NUMBER = 10**9  # that an argument may be: a larger one is a slip


def one_line(text: str) -> str:
    """A text with line breaks and other control characters, which a file's name may hold, spelt out."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f]", lambda match: repr(match[0])[1:-1], text)


def positive(text: str) -> int:
    """A whole number of at least 1, as an argument."""
    return _number(text, 1)


def non_negative(text: str) -> int:
    """A whole number of at least 0, as an argument."""
    return _number(text, 0)


def _number(text: str, least: int) -> int:
    number = int(text)
    if number < least:
        raise argparse.ArgumentTypeError(f"{number} is not at least {least}")
    if number > MAX_NUMBER:
        raise argparse.ArgumentTypeError(f"{number} is more than {MAX_NUMBER:,}")
    return number


def add_model_arguments(parser: argparse.ArgumentParser, batch_size: int = 32) -> None:
    """The model, and how to run it."""
    parser.add_argument(
        "--model",
        metavar="M",
        help="a model file (.safetensors, or a run's .ckpt); default: the one that ships with captioner",
    )
    parser.add_argument(
        "--batch-size", type=positive, default=batch_size, metavar="N", help=f"photos at a time (default {batch_size})"
    )
    parser.add_argument(
        "--device", default="auto", help="auto (a GPU where there is one), cpu, cuda, cuda:1, ... (default auto)"
    )
    parser.add_argument(
        "--precision",
        choices=("fp32", "bf16"),
        default="fp32",
        help="bf16 is about twice as fast where the processor has it; captions may differ at near-ties (default fp32)",
    )
    parser.add_argument(
        "--cache", metavar="DIR", help="read the encoder's features of these photos from a `captioner cache` folder"
    )
    parser.add_argument("--regions", metavar="FILE", help="read these photos' regions from `captioner regions`' output")
    add_trust(parser)


def add_trust(parser: argparse.ArgumentParser) -> None:
    """The packages whose classes a model may be built of."""
    parser.add_argument(
        "--trust",
        action="append",
        default=[],
        metavar="PACKAGE",
        help="a package beside captioner whose parts the model may use",
    )


def add_paths(parser: argparse.ArgumentParser) -> None:
    """The photos."""
    parser.add_argument(
        "paths",
        nargs="+",
        metavar="PATH",
        help="a photo, a folder (searched to its depth), a glob pattern, or tar shards: paths or URLs, such as "
        "s3://bucket/photos-{000..099}.tar",
    )
    parser.add_argument(
        "--text", action="store_true", help="the PATHs are sentences, for a model that was trained on sentences"
    )


def find_inputs(args: argparse.Namespace) -> tuple[Iterable[str | PackedImage], int]:
    """The photos that the paths name, or the sentences that they are; and how many paths named nothing.

    They are a list, unless there are shards among the paths, whose photos come last and are read as they are asked for.
    """
    if args.text:
        return args.paths, 0
    from captioner.data.images import find_images
    from captioner.data.shards import find_all, is_shard, stream_shard

    patterns = [path for path in args.paths if is_shard(path)]
    photos, problems = find_images([path for path in args.paths if path not in patterns])
    shards, no_shards = find_all(patterns)
    num_problems = report([*problems, *no_shards])
    if not shards:
        return photos, num_problems
    return chain(photos, chain.from_iterable(map(stream_shard, shards))), num_problems


def load_captioner(args: argparse.Namespace, text: bool = False) -> Captioner:
    """The model that the arguments name.

    Args:
        args: what `add_model_arguments` declared.
        text: whether it is to read sentences.

    Raises:
        ValueError: it reads photos where it is to read sentences, or the other way round.
    """
    from captioner.predictors import load

    captioner = load(args.model, args.device, args.trust, args.cache, args.regions, args.precision)
    if captioner.reads_text and not text:
        raise ValueError(f"{args.model}: this model reads sentences: give them in place of photos, with --text")
    if text and not captioner.reads_text:
        raise ValueError("--text: this model reads photos; name one that was trained on sentences by --model")
    return captioner


def report(problems: Iterable[InputError], say: Callable[[str], None] | None = None) -> int:
    """One unwrapped line on stderr for each file that could not be read; returns how many."""
    count = 0
    for problem in problems:
        line = one_line(f"captioner: {problem.name}: {problem.reason}")
        if say is None:
            print(line, file=sys.stderr, flush=True)
        else:
            say(line)
        count += 1
    return count
