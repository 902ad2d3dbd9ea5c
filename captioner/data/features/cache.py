"""A frozen encoder's memories on disk, made in one pass, so that training need not run the CNN again.

A cache is a folder of three files:

    cache.json     what the features were made with: encoder, weights, transform, augmentation
    index.jsonl    one line per image, in the order of its rows: SHA-256 of the file's bytes, views, name
    features.f16   the rows, (h, w, D) float16 each, one for every view of an image

An image is found by its bytes, not by its name: one that was changed is not found. `features.f16` is written to
disk before the line in the index is, so what the index names is whole, whenever the process that builds
the cache is killed; building again goes on from there, and adds further images in the same way.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from captioner.data.features.identity import CacheError, agree, description, differences, identity
from captioner.data.images import Augmentation, ImageTransform
from captioner.files import in_threads
from captioner.types import CaptionedImage, ImageError, Memory, PackedImage

HASH_THREADS = 8


class Row(NamedTuple):
    """Where an image's features lie.

    Attributes:
        start: its first row in the file of features.
        views: how many rows follow from there.
    """

    start: int
    views: int


class FeatureCache:
    """A cache that was checked against an encoder and a transform, to read from.

    Rows are memory-mapped one at a time and copied: a map of the whole file would count what was read of
    it as this process's memory, which would grow with the number of images. It may be pickled to
    worker processes, and may grow while it is read.

    Args:
        folder: the cache.
        grid: (h, w, D) of a row.
        rows: where each image's rows are, by the SHA-256 of its file.
    """

    def __init__(self, folder: Path, grid: tuple[int, int, int], rows: dict[str, Row]) -> None:
        self.folder = folder
        self.grid = grid
        self.rows = rows
        self.known: dict[str, Row] = {}  # by path, once checked

    @classmethod
    def open(
        cls,
        folder: str | Path,
        encoder: nn.Module,
        transform: ImageTransform,
        augmentation: Augmentation | None = None,
    ) -> FeatureCache:
        """Open a cache for reading.

        Args:
            folder: the cache.
            encoder: the frozen encoder whose memories are wanted.
            transform: what comes before it.
            augmentation: what made the views after the first; None where only the first is read.

        Raises:
            CacheError: there is no cache, it was made with something else (the error names what), or
                its files are damaged.
        """
        folder = Path(folder)
        meta = read_meta(folder)
        if meta is None:
            raise CacheError(f"{folder}: no feature cache here; `captioner cache` makes one")
        check_identity(folder, meta, identity(encoder, transform), described(augmentation))
        grid = tuple(meta["grid"])
        lines, _ = read_index(folder)
        size, needed = (folder / "features.f16").stat().st_size, count_rows(lines) * row_bytes(grid)
        if size < needed:
            raise CacheError(
                f"{folder}: damaged: features.f16 has {size:,} bytes of {needed:,}; delete the folder and "
                "build the cache again"
            )
        return cls(folder, grid, rows_of(lines))

    def check(self, items: Iterable[CaptionedImage], views: int = 1) -> list[ImageError]:
        """Find the rows of images, by hashing their files; `load` need not hash those again.

        Args:
            items: the images.
            views: how many views each must have.

        Returns:
            One error for each image that is not in the cache, or cannot be read.
        """
        paths = [item.path for item in items]
        missing = []
        for path, digest in zip(paths, in_threads(file_digest, paths, HASH_THREADS), strict=True):
            if isinstance(digest, ImageError):
                missing.append(digest)
            elif digest not in self.rows or self.rows[digest].views < views:
                missing.append(self._missing(str(path), views))
            else:
                self.known[str(path)] = self.rows[digest]
        return missing

    def load(self, path: str | Path | PackedImage, view: int = 0) -> Tensor:
        """The features of one image.

        Args:
            path: the image file, or the image in a shard; it is hashed unless `check` did that before.
            view: 0 for the plain image, others for its augmentations.

        Returns:
            (h, w, D) float16.

        Raises:
            ImageError: the image, or this view of it, is not in the cache.
        """
        row = self.known.get(str(path))
        if row is None:
            digest = file_digest(path)
            if isinstance(digest, ImageError):
                raise digest
            row = self.rows.get(digest)
        if row is None or view >= row.views:
            raise self._missing(str(path), view + 1)
        mapped = np.memmap(
            self.folder / "features.f16",
            dtype=np.float16,
            mode="r",
            offset=(row.start + view) * row_bytes(self.grid),
            shape=self.grid,
        )
        return torch.from_numpy(np.array(mapped))

    def memory(self, paths: Sequence[str | Path | PackedImage]) -> Memory:
        """The memory of B images, as the encoder would give it (but in float16)."""
        return stack_grids([self.load(path) for path in paths])

    def _missing(self, path: str, views: int) -> ImageError:
        what = "is not" if views == 1 else f"is not with {views} views"
        return ImageError(
            path,
            f"{what} in the cache {self.folder}: it changed, or was not there when the cache was made; "
            f"`captioner cache --cache {self.folder} --data ...` adds it",
        )


def stack_grids(grids: Sequence[Tensor]) -> Memory:
    """A memory of B grids (h, w, D)."""
    return Memory.from_grid(torch.stack(list(grids)).permute(0, 3, 1, 2))  # (B, D, h, w), no copy


def read_meta(folder: Path) -> dict[str, Any] | None:
    """What cache.json says; None if there is none."""
    path = folder / "cache.json"
    if not path.is_file():
        return None
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
        if {"format", "encoder", "weights", "transform", "augmentation", "grid"} <= meta.keys():
            return meta
    except (ValueError, AttributeError):
        pass
    raise CacheError(f"{path}: damaged, or not a feature cache; delete the folder and build the cache again")


def check_identity(
    folder: Path, meta: dict[str, Any], wanted: dict[str, Any], augmenting: dict[str, Any] | None
) -> None:
    """See that a cache was made with what is wanted.

    Raises:
        CacheError: it was not; the error names the differences.
    """
    found = differences(meta, wanted)
    if augmenting is not None and not agree(meta["augmentation"], augmenting):
        found.append(f"the augmentation: {meta['augmentation']} there, {augmenting} here")
    if found:
        raise CacheError(
            f"{folder}: this cache was made with something else: {'; '.join(found)}. Go back to what it was made with, "
            "or build a cache in another folder, or delete this one"
        )


def described(augmentation: Augmentation | None) -> dict[str, Any] | None:
    """What cache.json says of an augmentation."""
    return None if augmentation is None else description(augmentation)


def read_index(folder: Path) -> tuple[list[dict[str, Any]], int]:
    """The whole lines of the index, and how many bytes they are."""
    path = folder / "index.jsonl"
    raw = path.read_bytes() if path.is_file() else b""
    length = raw.rfind(b"\n") + 1
    try:
        return [json.loads(line) for line in raw[:length].splitlines()], length
    except ValueError as error:
        raise CacheError(f"{path}: damaged ({error}); delete the folder and build the cache again") from error


def count_rows(lines: list[dict[str, Any]]) -> int:
    """How many rows the lines of an index stand for."""
    return sum(line["views"] for line in lines)


def rows_of(lines: list[dict[str, Any]]) -> dict[str, Row]:
    """Where each image's rows are; the last line counts for an image that was added again with more views."""
    rows, start = {}, 0
    for line in lines:
        rows[line["sha256"]] = Row(start, line["views"])
        start += line["views"]
    return rows


def row_bytes(grid: tuple[int, ...]) -> int:
    """The size of a row in the file of features."""
    return 2 * int(np.prod(grid))


def file_digest(path: str | Path | PackedImage) -> str | ImageError:
    """SHA-256 of a file; where it cannot be read, why."""
    digest = hashlib.sha256()
    try:
        if isinstance(path, PackedImage):
            digest.update(path.read_bytes())
        else:
            with open(path, "rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
    except ImageError as error:
        return error
    except OSError as error:
        return ImageError(str(path), error.strerror or type(error).__name__)
    return digest.hexdigest()
