"""What the sub-commands that look at photos share: their arguments, and how they report a broken file."""

from __future__ import annotations

import argparse
import re
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from captioner.data.images import ImageError
    from captioner.data.readers import Reader
    from captioner.predictor import Captioner


def one_line(text: str) -> str:
    """A text with line breaks and other control characters, which a file's name may hold, spelt out."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f]", lambda match: repr(match[0])[1:-1], text)


def positive(text: str) -> int:
    """A whole number of at least 1, as an argument."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not at least 1")
    return number


def add_model_arguments(parser: argparse.ArgumentParser, batch_size: int = 16) -> None:
    """The model, and how to run it."""
    parser.add_argument(
        "--model",
        metavar="M",
        help="a model file (.safetensors, or a run's .ckpt); default: the one that ships with captioner",
    )
    parser.add_argument(
        "--beam-size", type=positive, default=5, metavar="K", help="prefixes the search keeps (default 5); 1 is greedy"
    )
    parser.add_argument(
        "--batch-size", type=positive, default=batch_size, metavar="N", help=f"photos at a time (default {batch_size})"
    )
    parser.add_argument(
        "--device", default="auto", help="auto (a GPU where there is one), cpu, cuda, cuda:1, ... (default auto)"
    )
    parser.add_argument(
        "--cache", metavar="DIR", help="read the encoder's features of these photos from a `captioner cache` folder"
    )
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
        "paths", nargs="+", metavar="PATH", help="a photo, a folder (searched to its depth) or a glob pattern"
    )


def load_captioner(args: argparse.Namespace) -> Captioner:
    """The model that the arguments name."""
    from captioner.predictor import load

    return load(args.model, args.device, args.trust, args.cache)


def report(problems: Iterable[ImageError], say: Callable[[str], None] | None = None) -> int:
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


def read_data(source: str) -> Reader:
    """The data set that `--data` names: a training config's reader, or a folder whose layout is recognised.

    Raises:
        ValueError: neither of them.
    """
    from pathlib import Path

    from captioner.data.readers import Reader, find_reader

    if not Path(source).is_file():
        return find_reader(source)
    import yaml
    from jsonargparse import ArgumentError, ArgumentParser

    try:
        section = yaml.safe_load(Path(source).read_text(encoding="utf-8"))["data"]["reader"]
    except yaml.YAMLError as error:
        raise ValueError(f"{source}: not a YAML file: {' '.join(str(error).split())}") from error
    except (KeyError, TypeError):
        raise ValueError(f"{source}: not a training config: it has no data.reader") from None
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--reader", type=Reader, required=True)
    try:
        return parser.instantiate_classes(parser.parse_object({"reader": section})).reader
    except ArgumentError as error:
        raise ValueError(f"{source}: {' '.join(str(error).split())}") from error
