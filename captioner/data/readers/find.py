"""Which data set is meant: by a folder's layout, or by a training config."""

from __future__ import annotations

from pathlib import Path

from captioner.data.readers.base import Reader, TextReader
from captioner.data.readers.coco import CocoCaptions
from captioner.data.readers.flickr8k import Flickr8k
from captioner.data.readers.folder import CaptionFolder
from captioner.data.readers.karpathy import KarpathySplit
from captioner.data.readers.shards import Shards

READERS: tuple[type[Reader], ...] = (
    Flickr8k,
    CocoCaptions,
    KarpathySplit,
    CaptionFolder,
    Shards,
)
"""Whose layouts are recognised, in this order."""


def find_reader(path: str | Path) -> Reader:
    """The reader for a folder, by its layout: the first of `READERS` whose layout it has.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: its layout is none of them; the error lists them.
    """
    root = Path(path)
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder of data")
    for kind in READERS:
        reader = kind.find(root)
        if reader is not None:
            return reader
    layouts = "\n".join(f"  {layout}" for kind in READERS for layout in kind.layouts)
    raise ValueError(f"{root}: not a data set in a layout that is known. These are:\n{layouts}")


def read_data(source: str) -> Reader | TextReader:
    """The data set that a training config reads, or that lies in a folder.

    Args:
        source: the config's file, or the folder.

    Raises:
        FileNotFoundError, ValueError: neither of them, see `find_reader`.
    """
    if not Path(source).exists():
        raise FileNotFoundError(f"{source}: no such folder of data, and no such config")
    if not Path(source).is_file():
        return find_reader(source)
    from jsonargparse import ArgumentParser

    from captioner.configs import data_arguments, instantiate, read_config

    config = read_config(source)
    try:
        section = data_arguments(config)["reader"]
    except (KeyError, TypeError):
        raise ValueError(f"{source}: not a training config: it has no data.reader") from None
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--reader", type=Reader | TextReader, required=True)
    return instantiate(parser, {"reader": section}, {"reader": Reader | TextReader}, source).reader
