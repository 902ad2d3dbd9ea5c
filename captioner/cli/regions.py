"""`captioner regions`: store what a detector finds in photos, to train on it; or convert features of others."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from captioner.cli.arguments.config import data_and_encoder
from captioner.cli.arguments.photos import non_negative, positive, report

if TYPE_CHECKING:
    from captioner.models.encoders import Encoder, RegionEncoder
    from captioner.tasks.captioning import CaptionData
    from captioner.types import CaptionedImage, ImageError

DETECTOR = "fasterrcnn_resnet50_fpn_v2"
SIZE = 640


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "paths", nargs="*", metavar="PATH", help="a photo, a folder (searched to its depth) or a glob pattern"
    )
    parser.add_argument(
        "--data",
        metavar="CONFIG_OR_FOLDER",
        help="in place of PATHs: a training config (.yaml), whose data, detector and transform are taken; or a data "
        "set's folder",
    )
    parser.add_argument("--split", action="append", metavar="SPLIT", help="only this split (may be given again)")
    parser.add_argument(
        "--from-tsv",
        action="append",
        metavar="FILE",
        help="in place of PATHs: convert a .tsv of bottom-up attention's features (may be given again)",
    )
    parser.add_argument(
        "--output",
        metavar="DIR",
        help="the folder of features; what it holds already is skipped; default: the config's data.regions",
    )
    parser.add_argument(
        "--detector",
        metavar="NAME",
        help=f"a Faster or Mask R-CNN of torchvision (default: the config's, or {DETECTOR})",
    )
    parser.add_argument(
        "--weights",
        metavar="W",
        help='"default" (torchvision\'s download, the default), "none" (random, to try things out), or a weight file',
    )
    parser.add_argument("--num-regions", type=positive, metavar="R", help="the most of a photo (default 36)")
    parser.add_argument(
        "--size", type=positive, metavar="S", help=f"side of the detector's square in pixels (default {SIZE})"
    )
    parser.add_argument("--fit", choices=("squash", "crop", "pad"), help="how photos are fitted (default squash)")
    parser.add_argument(
        "--dtype", default="float16", choices=("float16", "float32"), help="number format of the features"
    )
    parser.add_argument("--batch-size", type=positive, default=4, metavar="N", help="photos at a time (default 4)")
    parser.add_argument(
        "--num-workers", type=non_negative, default=2, metavar="N", help="processes that load photos (default 2)"
    )
    parser.add_argument(
        "--device", default="auto", help="auto (a GPU where there is one), cpu, cuda, ... (default auto)"
    )


def run(args: argparse.Namespace) -> int:
    """Build, extend or convert; 1 if some photos could not be read."""
    if sum(map(bool, (args.paths, args.data, args.from_tsv))) != 1:
        raise ValueError("give photos, --data or --from-tsv, one of the three")
    if args.from_tsv:
        from captioner.data.features.tsv import convert_tsv

        return 1 if report(convert_tsv(args.from_tsv, _folder(args, None), args.dtype)) else 0
    data, encoder = (None, None)
    if args.data and Path(args.data).is_file():
        data, encoder = data_and_encoder(args.data)
    items, problems = _items(args, data)
    return 1 if report(problems + _build(args, items, data, encoder)) else 0


def _build(
    args: argparse.Namespace, items: list[CaptionedImage], data: CaptionData | None, encoder: Encoder | None
) -> list[ImageError]:
    from captioner.data.features.find_regions import build_regions
    from captioner.data.features.identity import identity
    from captioner.data.images import ImageTransform
    from captioner.devices import find_device

    folder = _folder(args, data)
    transform = ImageTransform(SIZE) if data is None else data.transform
    transform = ImageTransform(args.size or transform.size, args.fit or transform.fit)
    device = find_device(args.device)
    detector = _detector(args, encoder).eval().to(device)
    return build_regions(
        folder,
        items,
        detector.detect,
        transform,
        identity(detector, transform),
        args.dtype,
        args.batch_size,
        args.num_workers,
        device,
    )


def _detector(args: argparse.Namespace, encoder: Encoder | None) -> RegionEncoder:
    """The config's detector, with what the arguments say of it changed; or the default one.

    Raises:
        ValueError: the config's encoder is no detector, or the arguments do not make one.
    """
    from captioner.models.encoders import RegionEncoder
    from captioner.specs import describe_part

    given = {"name": args.detector, "weights": args.weights, "num_regions": args.num_regions}
    given = {name: value for name, value in given.items() if value is not None}
    if isinstance(encoder, RegionEncoder):
        if not given:
            return encoder
        own = describe_part(encoder)["args"]
    elif encoder is None or args.detector:
        own = {"name": DETECTOR, "weights": "default", "num_regions": 36, "min_regions": 10}
    else:
        raise ValueError(f"{args.data}: its encoder is {type(encoder).__name__}, no RegionEncoder: name a --detector")
    found = {**own, **given}
    return RegionEncoder(**{**found, "min_regions": min(found["min_regions"], found["num_regions"])})


def _folder(args: argparse.Namespace, data: CaptionData | None) -> str:
    folder = args.output or (data and data.regions)
    if not folder:
        raise ValueError("--output DIR is missing: where should the features lie?")
    return folder


def _items(args: argparse.Namespace, data: CaptionData | None) -> tuple[list[CaptionedImage], list[ImageError]]:
    """The photos that are asked for, and the paths where there are none."""
    from captioner.data.images import find_images
    from captioner.data.readers import find_reader
    from captioner.types import CaptionedImage

    if args.data:
        reader = find_reader(args.data) if data is None else data.reader
        splits = args.split or (reader.splits if data is None else (data.train_split, data.val_split))
        everything = [item for split in splits for item in reader.read(split)]
        return list({item.path: item for item in everything}.values()), []  # splits may overlap
    if args.split:
        raise ValueError("--split goes with --data")
    paths, problems = find_images(args.paths)
    return [CaptionedImage(Path(path).name, Path(path)) for path in paths], problems
