"""Writing files of regions, shard by shard."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from captioner.data.features.identity import FLOAT16_MAX, agree, differences
from captioner.data.features.regions import (
    FORMAT,
    KEY,
    RegionError,
    RegionFile,
    Regions,
    checksum_of,
    region_files,
    rows_checksum,
)
from captioner.files import write_whole

SHARD_IMAGES = 256
DTYPES = {"float16": torch.float16, "float32": torch.float32}


def write_regions(
    path: str | Path,
    images: Mapping[str, Regions],
    made_with: dict[str, Any] | None = None,
    dtype: str = "float16",
) -> None:
    """Write one file, whole or not at all.

    Args:
        path: the `.safetensors` file.
        images: regions by key, at least one of each image.
        made_with: see `RegionFile`.
        dtype: number format of the features, "float16" or "float32".

    Raises:
        RegionError: regions that do not fit together, or features that the format cannot hold.
        OSError: the file cannot be written.
    """
    if dtype not in DTYPES:
        raise RegionError(f"dtype {dtype!r} is not one of {', '.join(DTYPES)}")
    feature_dim = next(iter(images.values())).features.shape[1]
    for key, regions in images.items():
        _require_sound(key, regions, feature_dim, dtype)
    counts = [len(regions.boxes) for regions in images.values()]
    tensors = {
        "features": torch.cat([regions.features.to(DTYPES[dtype]) for regions in images.values()]),
        "boxes": torch.cat([regions.boxes.float() for regions in images.values()]),
        "scores": torch.cat([regions.scores.float() for regions in images.values()]),
        "starts": torch.tensor([0, *counts]).cumsum(0),
        "sizes": torch.tensor([regions.size for regions in images.values()], dtype=torch.int32),
    }
    rows = zip(*(tensors[name].split(counts) for name in ("features", "boxes", "scores")), strict=True)
    checksums = [rows_checksum(*(part.numpy() for part in image)) for image in rows]
    photos = [regions.photo for regions in images.values()]
    meta = {"format": FORMAT, "keys": list(images), "made_with": made_with, "rows": checksums, "photos": photos}
    meta = json.loads(json.dumps(meta))
    meta["checksum"] = checksum_of(meta, tensors["starts"].numpy(), tensors["sizes"].numpy())
    write_whole(path, save(tensors, metadata={KEY: json.dumps(meta, sort_keys=True)}))


def _require_sound(key: str, regions: Regions, feature_dim: int, dtype: str) -> None:
    num_regions = len(regions.features)
    shapes = (tuple(regions.features.shape), tuple(regions.boxes.shape), tuple(regions.scores.shape))
    if num_regions == 0 or shapes != ((num_regions, feature_dim), (num_regions, 4), (num_regions,)):
        raise RegionError(
            f"the image {key!r} has features, boxes and scores of {shapes}: not (R, {feature_dim}), (R, 4) and (R,) "
            "with at least one region"
        )
    peak = regions.features.float().abs().max().item()
    if not math.isfinite(peak) or not torch.isfinite(regions.boxes).all():
        raise RegionError(f"the image {key!r} has features or boxes that are not finite numbers")
    if dtype == "float16" and peak > FLOAT16_MAX:
        raise RegionError(f"the image {key!r} has features up to {peak}, which {dtype} cannot hold: try float32")


class RegionWriter:
    """Adds images to a folder of regions, shard by shard; to be used in a `with` statement.

    A shard appears whole or not at all: what a killed process leaves behind can be read and gone on with, and lacks at
    most the images of one shard.

    Args:
        folder: is made where it is missing.
        made_with: what the features are from; must be that of the shards which are there.
        dtype: number format of the features, "float16" or "float32".
        shard_images: images of a shard.

    Raises:
        RegionError: the folder holds features from something else.

    Attributes:
        there: what the folder held before; None if nothing.
        done: the keys of all that it holds.
    """

    def __init__(
        self,
        folder: str | Path,
        made_with: dict[str, Any] | None = None,
        dtype: str = "float16",
        shard_images: int = SHARD_IMAGES,
    ) -> None:
        self.folder = Path(folder)
        self.made_with = made_with
        self.dtype = dtype
        self.shard_images = shard_images
        self.num_shards = len(region_files(self.folder))
        self.feature_dim: int | None = None
        self.there: RegionFile | None = None
        self.done: set[str] = set()
        self.waiting: dict[str, Regions] = {}
        if self.num_shards:
            there = RegionFile(self.folder)
            if not agree(there.made_with, made_with):
                found = "nothing is known of what it holds, or of what is to be added"
                if there.made_with is not None and made_with is not None:
                    found = "; ".join(differences(there.made_with, made_with))
                raise RegionError(f"{folder} holds other features ({found}): choose another folder, or delete this one")
            self.there = there
            self.feature_dim = there.feature_dim
            self.done = set(there.places)

    def __enter__(self) -> RegionWriter:
        self.folder.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        if self.waiting:
            self._write()

    def add(self, key: str, regions: Regions) -> None:
        """Add an image; one that is in already stays as it is.

        Raises:
            RegionError: regions that do not fit together or to the others, or that the format cannot hold.
        """
        if key in self.done:
            return
        self.feature_dim = self.feature_dim or regions.features.shape[1]
        _require_sound(key, regions, self.feature_dim, self.dtype)
        self.done.add(key)
        self.waiting[key] = regions
        if len(self.waiting) == self.shard_images:
            self._write()

    def _write(self) -> None:
        while (path := self.folder / f"regions-{self.num_shards:05d}.safetensors").exists():
            self.num_shards += 1
        waiting, self.waiting = self.waiting, {}
        write_regions(path, waiting, self.made_with, self.dtype)
        self.num_shards += 1
