"""Converting the region features of "bottom-up attention"."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch

from captioner.data.features.regions import Regions
from captioner.data.features.write_regions import RegionWriter
from captioner.files import locked
from captioner.progress import logged_progress
from captioner.types import ImageError

TSV_COLUMNS = ("image_id", "image_w", "image_h", "num_boxes", "boxes", "features")


def convert_tsv(paths: Iterable[str | Path], folder: str | Path, dtype: str = "float16") -> list[ImageError]:
    """Convert features in the format of "bottom-up attention" (Anderson et al. 2018, arXiv 1707.07998), line by line.

    A line is an image: the columns `TSV_COLUMNS`, split by tabs, without a header; boxes (in pixels of the photo)
    and features are the base64 of float32 numbers. There are no scores in it.

    Args:
        paths: the .tsv files.
        folder: of the shards; made where it is missing. What is in already is skipped.
        dtype: number format of the features, "float16" or "float32".

    Returns:
        One error for each line that is damaged; all others are in.

    Raises:
        RegionError: the folder holds features from something else.
        CacheError: another process is writing to the folder.
        OSError: a file cannot be read.
    """
    folder, files = Path(folder), [Path(path) for path in paths]
    problems: list[ImageError] = []
    num_bytes = sum(file.stat().st_size for file in files)
    with locked(folder), RegionWriter(folder, None, dtype) as writer, logged_progress("bytes", num_bytes) as advance:
        for file in files:
            for where, line in _lines(file):
                try:
                    writer.add(*_from_tsv(line))
                except ValueError as error:
                    problems.append(ImageError(where, " ".join(str(error).split())))
                advance(len(line))
    return problems


def _lines(path: Path) -> Iterator[tuple[str, bytes]]:
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield f"{path}, line {number}", line


def _from_tsv(line: bytes) -> tuple[str, Regions]:
    """An image's id and its regions; ValueError where the line is damaged."""
    columns = line.rstrip(b"\r\n").split(b"\t")
    if len(columns) != len(TSV_COLUMNS):
        raise ValueError(f"{len(columns)} columns, not the {len(TSV_COLUMNS)} of {', '.join(TSV_COLUMNS)}")
    key, (width, height, num_boxes) = columns[0].decode(), map(int, columns[1:4])
    if min(width, height, num_boxes) < 1:
        raise ValueError(f"the image {key!r} has {num_boxes} boxes and {width} x {height} pixels")
    boxes, features = (
        torch.from_numpy(np.frombuffer(base64.b64decode(column, validate=True), "<f4").reshape(num_boxes, -1).copy())
        for column in columns[4:]
    )
    return key, Regions(features, boxes, torch.full((num_boxes,), torch.nan), (width, height))
