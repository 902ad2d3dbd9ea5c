"""`captioner shards`: pack a data set into tar shards, or say of the shards of others where in them the images lie."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from captioner.cli.arguments.photos import positive, report

if TYPE_CHECKING:
    from captioner.types import ImageError

SHARD_MB = 256


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "shards",
        nargs="*",
        metavar="SHARD",
        help="in place of --data: shards of others to index, paths or URLs, such as s3://bucket/train-{000..099}.tar",
    )
    parser.add_argument(
        "--data",
        metavar="CONFIG_OR_FOLDER",
        help="a training config (.yaml), or a data set's folder, whose images are packed into shards",
    )
    parser.add_argument("--split", action="append", metavar="SPLIT", help="only this split (may be given again)")
    parser.add_argument(
        "--output",
        metavar="DIR",
        help="the folder of the shards; of SHARDs the folder of their indices (default: beside them)",
    )
    parser.add_argument(
        "--shard-mb", type=positive, default=SHARD_MB, metavar="MB", help=f"size of a shard (default {SHARD_MB})"
    )


def run(args: argparse.Namespace) -> int:
    """Pack or index; 1 if some images could not be read."""
    if bool(args.shards) == bool(args.data):
        raise ValueError("give --data, or shards to index, one of the two")
    problems = _index(args) if args.shards else _pack(args)
    return 1 if report(problems) else 0


def _pack(args: argparse.Namespace) -> list[ImageError]:
    """Write the shards of each split, and say where they are."""
    from captioner.data.readers import Reader, find_split, read_data
    from captioner.data.shards import to_pack, write_shards

    if not args.output:
        raise ValueError("--output DIR is missing: where should the shards lie?")
    reader = read_data(args.data)
    if not isinstance(reader, Reader):
        raise ValueError(f"{args.data}: a data set of sentences; shards hold images")
    problems = []
    whole = [split for split in reader.splits if split != "all"]  # which holds the others' images once more
    wanted = args.split or whole or reader.splits
    names = list(dict.fromkeys(find_split(split, reader.splits, str(reader)) for split in wanted))
    missing = to_pack(args.output, names)
    for name in names:
        if name not in missing:
            print(f"{name}: was packed before")
            continue
        items = reader.read(name)
        shards, broken = write_shards(items, args.output, name, args.shard_mb * 1_000_000)
        problems += broken
        numbers = f"{{000000..{len(shards) - 1:06d}}}" if len(shards) > 1 else "000000"
        pattern = f": {Path(args.output) / f'{name}-{numbers}.tar'}" if shards else ""
        print(f"{name}: {len(items) - len(broken):,} images in {len(shards):,} shards{pattern}")
    return problems


def _index(args: argparse.Namespace) -> list[ImageError]:
    """Index shards one by one; one that is damaged does not stop the others."""
    from captioner.data.shards import ShardError, find_shards, index_shard
    from captioner.progress import progress_bar
    from captioner.types import ImageError

    if args.split:
        raise ValueError("--split goes with --data")
    shards = list(dict.fromkeys(shard for pattern in args.shards for shard in find_shards(pattern)))
    problems, num_images, num_done = [], 0, 0
    with progress_bar("indexing", len(shards)) as bar:
        for shard in shards:
            try:
                found, left_out = index_shard(shard, args.output)
                problems += left_out
                num_images += found
                num_done += 1
            except (ShardError, OSError) as error:
                problems.append(ImageError(shard, str(error).removeprefix(f"{shard}: ")))
            bar.advance()
    print(f"{num_images:,} images in {num_done:,} of {len(shards):,} shards")
    return problems
