"""Region features in files, computed before training: any number of regions per image, in an open format.

A file of regions is `.safetensors`; a folder of such files (shards) is read as one. For I images with N regions in all:

    features   (N, D) float16 or float32   the annotation vectors, image after image
    boxes      (N, 4) float32              x0, y0, x1, y1 in pixels of the upright photo
    scores     (N,) float32                how sure the detector was, 0 to 1; NaN where that is not known
    starts     (I + 1,) int64              image i has the rows starts[i] to starts[i + 1], at least one
    sizes      (I, 2) int32                width and height of the upright photo in pixels

and one metadata entry, "captioner_regions", a JSON text: `{"format": 1, "keys": [...], "made_with": ...}`. The I keys
name the images: the data set's own ids as text ("391895" for COCO's 391895), or file names. "made_with" says which
detector and transform the features are from (`identity.identity`), or is null. "photos" has for each image the SHA-256
of its file, or null if that is not known; a second photo of one name is noticed by it. It may be left out, as earlier
versions did. Files that this package writes have two entries more: "rows", for each image the CRC-32 of its rows
(features, boxes and scores, one after the other), which is compared when they are read; and "checksum", that of
everything else (`checksum_of`), compared when a file is opened.

An image of a data set is looked up under these names, the first that there is: its key, its file's name, that
name without the suffix, and the number that ends a name in COCO's way (COCO_val2014_000000391895.jpg: 391895).
"""

from __future__ import annotations

import json
import re
import struct
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from captioner.data.features.identity import agree, differences, identity
from captioner.data.features.index import is_finite
from captioner.data.images import ImageTransform
from captioner.types import CaptionedImage, ImageError

FORMAT = 1
KEY = "captioner_regions"
STORED_AS: dict[str, np.dtype] = {"F16": np.dtype("<f2"), "F32": np.dtype("<f4")}


class RegionError(ValueError):
    """A file of regions that is missing, damaged or foreign, or does not fit what it is asked for."""


class Regions(NamedTuple):
    """The R regions of one image.

    Attributes:
        features: (R, D) annotation vectors.
        boxes: (R, 4) float32 x0, y0, x1, y1 in pixels of the upright photo.
        scores: (R,) float32, 0 to 1, or NaN.
        size: (width, height) of the upright photo in pixels.
        photo: SHA-256 of the photo's file, in hexadecimal digits; None where that is not known.
    """

    features: Tensor
    boxes: Tensor
    scores: Tensor
    size: tuple[int, int]
    photo: str | None = None


class RegionFile:
    """A file, or a folder of files, of regions, to read from.

    Rows are memory-mapped image by image and copied. It may be pickled to worker processes.

    Args:
        path: a `.safetensors` file, or a folder of them.

    Attributes:
        feature_dim: D.
        made_with: what the features are from, as JSON values; None where that is not known.

    Raises:
        RegionError: there is none, a file is damaged or holds something else, or files do not belong together.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.shards = [_open_shard(file) for file in region_files(self.path)]
        if not self.shards:
            raise RegionError(f"{path}: no file of regions here; `captioner regions --output {path} ...` makes one")
        first = self.shards[0]
        self.feature_dim = first.feature_dim
        self.made_with = first.made_with
        self.places: dict[str, tuple[int, int]] = {}  # of each key: its shard, and its number there
        for number, shard in enumerate(self.shards):
            if shard.feature_dim != first.feature_dim or not agree(shard.made_with, first.made_with):
                raise RegionError(f"{shard.path} and {first.path} have different features: keep them in two folders")
            for index, key in enumerate(shard.keys):
                if key in self.places:
                    other = self.shards[self.places[key][0]].path
                    raise RegionError(f"{shard.path}: the image {key!r} is in {other} too")
                self.places[key] = (number, index)

    def read(self, key: str) -> Regions:
        """The regions of the image of this key.

        Raises:
            KeyError: there is none.
            RegionError: what is there is damaged.
        """
        number, index = self.places[key]
        return self.shards[number].read(index)

    def photo(self, key: str) -> tuple[str | None, tuple[int, int]]:
        """The photo of this key: the SHA-256 of its file, where that is known, and its width and height."""
        number, index = self.places[key]
        shard = self.shards[number]
        return shard.photos[index], shard.size(index)

    def find(self, item: CaptionedImage) -> str | None:
        """The key that an image of a data set has here, if it is in."""
        return next((name for name in names_of(item) if name in self.places), None)

    def check(self, items: Iterable[CaptionedImage]) -> list[ImageError]:
        """One error for each image that is not in."""
        return [self._missing(item) for item in items if self.find(item) is None]

    def load(self, item: CaptionedImage) -> Regions:
        """The regions of an image of a data set.

        Raises:
            ImageError: the image is not in, or what is in is damaged.
        """
        key = self.find(item)
        if key is None:
            raise self._missing(item)
        try:
            return self.read(key)
        except RegionError as error:
            raise ImageError(str(item.path), f"cannot be read from its features: {error}") from error

    def require_for(self, encoder: nn.Module, transform: ImageTransform) -> None:
        """See that these features are what an encoder stands for.

        A detector must find in a photo what is stored here; an encoder without weights of its own
        (`PrecomputedRegions`) stands for any features of its size.

        Raises:
            RegionError: the features are of another size, or from elsewhere; the error names the differences.
        """
        if encoder.feature_dim != self.feature_dim:
            raise RegionError(
                f"{self.path}: features of size {self.feature_dim}, where the encoder says {encoder.feature_dim}"
            )
        if not any(True for _ in encoder.parameters()):
            return
        if self.made_with is None:
            raise RegionError(
                f"{self.path}: it is not known what these features were made with, so that no detector can stand for "
                "it on new photos: take PrecomputedRegions as the encoder"
            )
        found = differences(self.made_with, identity(encoder, transform))
        if found:
            raise RegionError(
                f"{self.path}: these features were made with something else: {'; '.join(found)}. Go back to what they "
                "were made with, make others in another folder, or take PrecomputedRegions as the encoder"
            )

    def _missing(self, item: CaptionedImage) -> ImageError:
        return ImageError(
            str(item.path),
            f"is not in {self.path}, under none of the names {', '.join(map(repr, names_of(item)))}; "
            f"`captioner regions --output {self.path} ...` adds it",
        )


def names_of(item: CaptionedImage) -> list[str]:
    """The names under which an image is looked up, in their order; see the top of this file."""
    names = [str(item.key), item.path.name, item.path.stem]
    number = re.search(r"(?:^|_)(\d{12})$", item.path.stem)
    if number:
        names.append(str(int(number[1])))
    return list(dict.fromkeys(names))


class _Shard(NamedTuple):
    """One file: what is small of it, and where in it the rest begins; no checksums where there are none in the file."""

    path: Path
    keys: list[str]
    made_with: dict[str, Any] | None
    feature_dim: int
    dtype: np.dtype
    starts: np.ndarray
    sizes: np.ndarray
    offsets: dict[str, int]
    checksums: list[int] | None
    photos: list[str | None]

    def size(self, index: int) -> tuple[int, int]:
        """Width and height of one of its photos."""
        width, height = self.sizes[index].tolist()
        return width, height

    def read(self, index: int) -> Regions:
        """The regions of one of its images.

        Raises:
            RegionError: they are damaged.
        """
        start, end = int(self.starts[index]), int(self.starts[index + 1])
        where = f"{self.path}: the image {self.keys[index]!r}"
        try:
            features = self._rows("features", self.dtype, (self.feature_dim,), start, end)
            boxes = self._rows("boxes", STORED_AS["F32"], (4,), start, end)
            scores = self._rows("scores", STORED_AS["F32"], (), start, end)
        except (ValueError, OSError) as error:  # cut off, or taken away, since it was opened
            raise RegionError(f"{where} has no regions there: the file is damaged ({error})") from error
        if self.checksums is not None and rows_checksum(features, boxes, scores) != self.checksums[index]:
            raise RegionError(f"{where} has other regions than were written there: delete the file and make it again")
        if not is_finite(features) or not is_finite(boxes):
            raise RegionError(f"{where} has features or boxes that are not finite numbers")
        tensors = torch.from_numpy(features), torch.from_numpy(boxes), torch.from_numpy(scores)
        return Regions(*tensors, self.size(index), self.photos[index])

    def _rows(self, name: str, dtype: np.dtype, shape: tuple[int, ...], start: int, end: int) -> np.ndarray:
        """A copy of some rows; a map of the whole file would count as this process's memory."""
        offset = self.offsets[name] + start * dtype.itemsize * int(np.prod(shape, dtype=np.int64))
        mapped = np.memmap(self.path, dtype=dtype, mode="r", offset=offset, shape=(end - start, *shape))
        return np.array(mapped)


def rows_checksum(features: np.ndarray, boxes: np.ndarray, scores: np.ndarray) -> int:
    """CRC-32 of an image's rows."""
    checksum = 0
    for rows in (features, boxes, scores):
        checksum = zlib.crc32(np.ascontiguousarray(rows).data, checksum)
    return checksum


def checksum_of(meta: Mapping[str, Any], starts: np.ndarray, sizes: np.ndarray) -> int:
    """CRC-32 of what says which rows are whose: the metadata without "checksum", sorted, then both tensors."""
    text = json.dumps({name: value for name, value in meta.items() if name != "checksum"}, sort_keys=True)
    checksum = zlib.crc32(text.encode())
    for table in (starts, sizes):
        checksum = zlib.crc32(np.ascontiguousarray(table).data, checksum)
    return checksum


def region_files(path: Path) -> list[Path]:
    """The files that a path means, in order."""
    if path.is_dir():
        return sorted(path.glob("*.safetensors"))
    return [path] if path.is_file() else []


def _open_shard(path: Path) -> _Shard:
    """Read what is small of a file, and check all that it says of itself."""
    try:
        with safe_open(path, framework="np") as file:
            meta = json.loads((file.metadata() or {}).get(KEY, "null"))
            if meta is None:
                raise RegionError(f"{path}: a .safetensors file, but not one of regions")
            if meta["format"] > FORMAT:
                raise RegionError(f"{path}: made by a newer captioner: pip install --upgrade captioner")
            starts, sizes = file.get_tensor("starts"), file.get_tensor("sizes")
            slices = {name: file.get_slice(name) for name in ("features", "boxes", "scores")}
            dtypes = {name: part.get_dtype() for name, part in slices.items()}
            shapes = {name: tuple(part.get_shape()) for name, part in slices.items()}
        shard = _Shard(
            path,
            list(meta["keys"]),
            meta["made_with"],
            shapes["features"][-1],
            STORED_AS[dtypes["features"]],
            starts,
            sizes,
            _offsets(path),
            _checked(meta, starts, sizes),
            list(meta.get("photos", [None] * len(meta["keys"]))),
        )
        num_regions, num_images = int(starts[-1]), len(shard.keys)
        fitting = {"features": (num_regions, shard.feature_dim), "boxes": (num_regions, 4), "scores": (num_regions,)}
        sound = (
            shapes == fitting
            and dtypes["boxes"] == dtypes["scores"] == "F32"
            and starts.shape == (num_images + 1,)
            and sizes.shape == (num_images, 2)
            and starts[0] == 0
            and (np.diff(starts) > 0).all()
            and (sizes > 0).all()
            and starts.dtype.kind == sizes.dtype.kind == "i"
            and all(isinstance(key, str) for key in shard.keys)
            and len(shard.photos) == num_images
            and all(isinstance(photo, str | None) for photo in shard.photos)
            and isinstance(shard.made_with, dict | None)
        )
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        if isinstance(error, RegionError):
            raise
        raise RegionError(f"{path}: damaged, or not a file of regions ({error})") from error
    if not sound:
        raise RegionError(f"{path}: damaged: its tensors do not fit together")
    return shard


def _checked(meta: Mapping[str, Any], starts: np.ndarray, sizes: np.ndarray) -> list[int] | None:
    """The checksums of the images' rows; None in a file of others, or of an earlier version.

    Raises:
        ValueError: the file's own is another one.
    """
    if meta.keys() <= {"format", "keys", "made_with", "photos"}:
        return None
    if meta["checksum"] != checksum_of(meta, starts, sizes) or len(meta["rows"]) != len(meta["keys"]):
        raise ValueError("its checksum is another one")
    return list(meta["rows"])


def _offsets(path: Path) -> dict[str, int]:
    """Where each tensor begins in a file that safetensors has checked."""
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    return {name: 8 + length + entry["data_offsets"][0] for name, entry in header.items() if name != "__metadata__"}
