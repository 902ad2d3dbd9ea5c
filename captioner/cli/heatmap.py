"""`captioner heatmap`: for each photo a figure, an animation, and the attention weights as data."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from captioner.cli.common import add_model_arguments, add_paths, load_captioner, report

if TYPE_CHECKING:
    from collections.abc import Iterator

    from captioner.data.images import ImageError
    from captioner.predictor import Caption, Captioner


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_paths(parser)
    add_model_arguments(parser)
    parser.add_argument(
        "--output", required=True, metavar="DIR", help="the folder for <photo>.png, .gif, .npz and .json"
    )
    parser.add_argument(
        "--caption", metavar="TEXT", help="show where the model looks for this caption instead of its own"
    )
    parser.add_argument("--blocky", action="store_true", help="draw the grid's cells as they are, not smoothed")


def run(args: argparse.Namespace) -> int:
    """Draw the photos; 1 if some could not be read."""
    from captioner.data.images import ImageError, find_images, open_image
    from captioner.heatmaps import export, output_stems
    from captioner.progress import progress_bar

    paths, problems = find_images(args.paths)
    num_problems = report(problems)
    if not paths:
        return 1
    model = load_captioner(args)
    stems = dict(zip(paths, output_stems(paths, Path(args.output)), strict=True))
    results = model.stream(paths, args.beam_size, args.batch_size)
    if args.caption is not None:
        results = _looks(model, paths, args.caption)
        unknown = ", ".join(map(repr, model.tokenizer.unknown_words(args.caption)))
        if unknown:
            print(f"captioner: the model does not know {unknown}: it reads the unknown word there", file=sys.stderr)
    with progress_bar("drawing", len(paths)) as bar:
        for path, result in results:
            try:
                if isinstance(result, ImageError):
                    raise result
                export(open_image(path), result.maps, stems[path], result.text, smooth=not args.blocky)
            except ImageError as error:
                num_problems += report([error], bar.say)
            bar.advance()
    return 1 if num_problems else 0


def _looks(model: Captioner, paths: list[str], caption: str) -> Iterator[tuple[str, Caption | ImageError]]:
    """The maps of one given caption for every photo."""
    from captioner.data.images import ImageError

    for path in paths:
        try:
            yield path, model.look(path, caption)
        except ImageError as error:
            yield path, error
