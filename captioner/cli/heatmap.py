"""`captioner heatmap`: for each photo a figure, an animation, and the attention weights as data."""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from captioner.cli.arguments.photos import add_model_arguments, add_paths, find_inputs, load_captioner, report
from captioner.cli.arguments.search import add_search_arguments, find_search, find_wording
from captioner.files import kept

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from captioner.predictors import Caption, Captioner
    from captioner.types import InputError, PackedImage


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_paths(parser)
    add_model_arguments(parser)
    parser.add_argument(
        "--output",
        required=True,
        metavar="DIR",
        help="the folder for <photo>.png, .gif, .npz and .json, and .heads.png of attention with heads",
    )
    parser.add_argument(
        "--caption", metavar="TEXT", help="show where the model looks for this caption instead of its own"
    )
    parser.add_argument("--blocky", action="store_true", help="draw the grid's cells as they are, not smoothed")
    add_search_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Draw the photos; 1 if some could not be read."""
    from captioner.heatmaps import output_stems
    from captioner.predictors import require_text
    from captioner.progress import progress_bar
    from captioner.types import InputError

    search, wording = find_search(args), find_wording(args)
    if args.caption is not None:
        require_text("--caption", args.caption)
    found, num_problems = find_inputs(args)
    paths = list(found)  # all of them: which stems are free depends on the others
    if not paths:
        return 1
    model = load_captioner(args, args.text)
    if args.text:
        stems = [Path(args.output) / f"sentence{number}" for number in range(1, len(paths) + 1)]
    else:
        stems = output_stems([str(path) for path in paths], Path(args.output))
    results = model.stream(paths, search, wording, args.batch_size)
    if args.caption is not None:
        results = _looks(model, paths, args.caption)
        unknown = ", ".join(map(repr, model.tokenizer.unknown_words(args.caption)))
        if unknown:
            print(f"captioner: the model does not know {unknown}: it reads the unknown word there", file=sys.stderr)
    num_drawn = 0
    folder = ExitStack()
    check: Callable[[], None] | None = None
    with folder, progress_bar("drawing", len(paths)) as bar:
        for (path, result), stem in zip(results, stems, strict=True):
            try:
                if isinstance(result, InputError):
                    raise result
                check = check or folder.enter_context(kept(args.output))  # made for the first of them
                check()
                _draw(path, result, stem, args)
                num_drawn += 1
            except InputError as error:
                num_problems += report([error], bar.say)
            bar.advance()
    print(f"{num_drawn} of {len(paths)} drawn into {args.output}")
    return 1 if num_problems else 0


def _draw(path: str | PackedImage, caption: Caption, stem: Path, args: argparse.Namespace) -> None:
    """Write the maps of each part of the memory; further parts have a number in their files' names.

    Raises:
        InputError: the photo is no longer to be read.
        ValueError: the model does not attend.
    """
    from captioner.data.images import open_image
    from captioner.heatmaps import export

    if not caption.looks:
        raise ValueError("this model does not attend: there is nothing to draw")
    photo = None if args.text else open_image(path)
    for number, maps in enumerate(caption.looks, start=1):
        own = stem if number == 1 else stem.with_name(f"{stem.name}.{number}")
        export(photo, maps, own, caption.text, smooth=not args.blocky)


def _looks(
    model: Captioner, paths: list[str | PackedImage], caption: str
) -> Iterator[tuple[str | PackedImage, Caption | InputError]]:
    """The maps of one given caption for every photo."""
    from captioner.types import InputError

    for path in paths:
        try:
            yield path, model.look(path, caption)
        except InputError as error:
            yield path, error
