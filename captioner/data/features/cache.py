"""A frozen encoder's memories on disk, made in one pass, so that training need not run the CNN again.

A cache is a folder of three files:

    cache.json     what the features were made with: encoder, weights, transform, augmentation
    index.jsonl    one line per image, in the order of its rows: SHA-256 of the file's bytes, views, name, checksums
    features.f16   the rows, (h, w, D) float16 each, one for every view of an image

An image is found by its bytes, not by its name: one that was changed is not found. `features.f16` is written to
disk before the line in the index is, so what the index names is whole, whenever the process that builds
the cache is killed; building again goes on from there, and adds further images in the same way. `index.py` reads and
checks what these files say.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from captioner.data.features.identity import CacheError, agree, description, differences, identity
from captioner.data.features.index import (
    BUILD_AGAIN,
    Row,
    is_finite,
    read_index,
    read_meta,
    row_bytes,
    row_checksum,
)
from captioner.data.images import Augmentation, ImageTransform
from captioner.files import in_threads
from captioner.types import CaptionedImage, ImageError, Memory, PackedImage

HASH_THREADS = 8


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
        index = read_index(folder, meta)
        require_rows(folder, index.num_rows, grid)
        return cls(folder, grid, index.rows)

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
            ImageError: the image, or this view of it, is not in the cache, or what is in there is damaged.
        """
        row = self.known.get(str(path))
        if row is None:
            digest = file_digest(path)
            if isinstance(digest, ImageError):
                raise digest
            row = self.rows.get(digest)
        if row is None or view >= row.views:
            raise self._missing(str(path), view + 1)
        file = self.folder / "features.f16"
        offset = (row.start + view) * row_bytes(self.grid)
        try:
            mapped = np.memmap(file, dtype=np.float16, mode="r", offset=offset, shape=self.grid)
        except (ValueError, OSError) as error:  # cut off, or taken away, since it was opened
            raise ImageError(str(path), f"has no features in {file}, which is damaged; {BUILD_AGAIN}") from error
        features = np.array(mapped)
        if row.checksums and row_checksum(features) != row.checksums[view]:
            raise ImageError(str(path), f"has other features in {file} than were written there; {BUILD_AGAIN}")
        if not is_finite(features):
            raise ImageError(str(path), f"has features in {file} that are not finite numbers; {BUILD_AGAIN}")
        return torch.from_numpy(features)

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


def require_rows(folder: Path, num_rows: int, grid: Sequence[int]) -> None:
    """See that there are as many rows as the index names."""
    file, needed = folder / "features.f16", num_rows * row_bytes(grid)
    size = file.stat().st_size if file.is_file() else 0
    if size < needed:
        raise CacheError(f"{file}: damaged: {size:,} bytes of {needed:,}; {BUILD_AGAIN}")


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
