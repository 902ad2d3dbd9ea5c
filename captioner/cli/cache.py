"""`captioner cache`: store a frozen encoder's grids for a data set, to train or evaluate on them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from captioner.cli.arguments.config import data_and_encoder
from captioner.cli.arguments.photos import add_trust, non_negative, positive, report

if TYPE_CHECKING:
    from captioner.data.images import Augmentation, ImageTransform
    from captioner.data.readers import Reader
    from captioner.models import Encoder


class Job(NamedTuple):
    """What to cache, and with what."""

    reader: Reader
    splits: dict[str, int]  # views of each
    encoder: Encoder
    transform: ImageTransform
    augmentation: Augmentation | None
    cache_dir: str | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "--data",
        required=True,
        metavar="CONFIG_OR_FOLDER",
        help="a training config (.yaml): its data, encoder and views; or a data set's folder, for a model's encoder",
    )
    parser.add_argument("--split", action="append", metavar="SPLIT", help="only this split (may be given again)")
    parser.add_argument("--cache", metavar="DIR", help="the cache's folder; default: the config's data.cache_dir")
    parser.add_argument(
        "--model",
        metavar="M",
        help="with a folder: the model file whose encoder is taken; default: the one that ships with captioner",
    )
    parser.add_argument("--batch-size", type=positive, default=32, metavar="N", help="images at a time (default 32)")
    parser.add_argument(
        "--num-workers", type=non_negative, default=2, metavar="N", help="processes that load images (default 2)"
    )
    parser.add_argument(
        "--device", default="auto", help="auto (a GPU where there is one), cpu, cuda, ... (default auto)"
    )
    add_trust(parser)


def run(args: argparse.Namespace) -> int:
    """Build or extend the cache; 1 if some images could not be read."""
    from captioner.data.features.build_cache import build_cache
    from captioner.devices import find_device

    if Path(args.data).is_file():
        if args.model is not None:
            raise ValueError(f"--model goes with a folder: {args.data} is a config, which names its encoder")
        job = _from_config(args.data)
    else:
        job = _from_folder(args.data, args.model, args.trust)
    folder = args.cache or job.cache_dir
    if folder is None:
        raise ValueError("--cache DIR is missing: where should the cache lie?")
    problems = []
    for split in args.split or job.splits:
        problems += build_cache(
            folder,
            job.reader.read(split),
            job.encoder,
            job.transform,
            job.augmentation,
            job.splits.get(split, 1),
            args.batch_size,
            args.num_workers,
            find_device(args.device),
        )
    return 1 if report(problems) else 0


def _from_config(path: str) -> Job:
    """The data and the encoder of a training config."""
    data, encoder = data_and_encoder(path)
    return Job(
        data.reader,
        {data.train_split: data.cache_views, data.val_split: 1},
        encoder,
        data.transform,
        data.augmentation,
        data.cache_dir,
    )


def _from_folder(path: str, model: str | None, trust: list[str]) -> Job:
    """A data set's folder, for the encoder of a model file."""
    from captioner.data.images import ImageTransform
    from captioner.data.readers import find_reader
    from captioner.predictors import load

    reader = find_reader(path)
    captioner = load(model, "cpu", trust)
    if not isinstance(captioner.transform, ImageTransform):
        raise ValueError(f"{model}: this model reads {captioner.transform.reads}; a cache holds features of photos")
    encoder = captioner.model.encoder.requires_grad_(False)  # it was fine-tuned, perhaps; here it is used as it is
    return Job(reader, dict.fromkeys(reader.splits, 1), encoder, captioner.transform, None, None)
