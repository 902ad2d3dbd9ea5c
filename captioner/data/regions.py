"""Region features in files, computed before training: any number of regions per image, in an open format.

A file of regions is `.safetensors`; a folder of such files (shards) is read as one. For I images with N regions in all:

    features   (N, D) float16 or float32   the annotation vectors, image after image
    boxes      (N, 4) float32              x0, y0, x1, y1 in pixels of the upright photo
    scores     (N,) float32                how sure the detector was, 0 to 1; NaN where that is not known
    starts     (I + 1,) int64              image i has the rows starts[i] to starts[i + 1], at least one
    sizes      (I, 2) int32                width and height of the upright photo in pixels

and one metadata entry, "captioner_regions", a JSON text: `{"format": 1, "keys": [...], "made_with": ...}`. The I keys
name the images: the data set's own ids as text ("391895" for COCO's 391895), or file names. "made_with" says which
detector and transform the features are from (`feature_cache.identity`), or is null.

An image of a data set is looked up under these names, the first that there is: its key, its file's name, that
name without the suffix, and the number that ends a name in COCO's way (COCO_val2014_000000391895.jpg: 391895).
"""

from __future__ import annotations

import base64
import json
import os
import re
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset

from captioner.data.feature_cache import FLOAT16_MAX, differences, identity, locked, progress
from captioner.data.images import ImageError
from captioner.data.transforms import ImageTransform
from captioner.types import CaptionedImage, Memory

FORMAT = 1
KEY = "captioner_regions"
SHARD_IMAGES = 256
DTYPES = {"float16": torch.float16, "float32": torch.float32}
STORED_AS: dict[str, np.dtype] = {"F16": np.dtype("<f2"), "F32": np.dtype("<f4")}
TSV_COLUMNS = ("image_id", "image_w", "image_h", "num_boxes", "boxes", "features")


class RegionError(ValueError):
    """A file of regions that is missing, damaged or foreign, or does not fit what it is asked for."""


class Regions(NamedTuple):
    """The R regions of one image.

    Attributes:
        features: (R, D) annotation vectors.
        boxes: (R, 4) float32 x0, y0, x1, y1 in pixels of the upright photo.
        scores: (R,) float32, 0 to 1, or NaN.
        size: (width, height) of the upright photo in pixels.
    """

    features: Tensor
    boxes: Tensor
    scores: Tensor
    size: tuple[int, int]


# ------------------------------------------------------------------------------------------ reading


class RegionFile:
    """A file, or a folder of files, of regions; a source of training and evaluation in place of image files.

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
        self.shards = [_open_shard(file) for file in _files(self.path)]
        if not self.shards:
            raise RegionError(f"{path}: no file of regions here; `captioner regions --output {path} ...` makes one")
        first = self.shards[0]
        self.feature_dim = first.feature_dim
        self.made_with = first.made_with
        self.places: dict[str, tuple[int, int]] = {}  # of each key: its shard, and its number there
        for number, shard in enumerate(self.shards):
            if (shard.feature_dim, shard.made_with) != (first.feature_dim, first.made_with):
                raise RegionError(f"{shard.path} and {first.path} have different features: keep them in two folders")
            for index, key in enumerate(shard.keys):
                if key in self.places:
                    other = self.shards[self.places[key][0]].path
                    raise RegionError(f"{shard.path}: the image {key!r} is in {other} too")
                self.places[key] = (number, index)

    def read(self, key: str) -> Regions:
        """The regions of the image of this key; KeyError where there is none."""
        number, index = self.places[key]
        return self.shards[number].read(index)

    def find(self, item: CaptionedImage) -> str | None:
        """The key that an image of a data set has here, if it is in."""
        return next((name for name in names_of(item) if name in self.places), None)

    def check(self, items: Iterable[CaptionedImage]) -> list[ImageError]:
        """One error for each image that is not in."""
        return [self._missing(item) for item in items if self.find(item) is None]

    def load(self, item: CaptionedImage, epoch: int, index: int) -> Regions:
        """One image's regions, the same in every epoch; see `batches.Source`.

        Raises:
            ImageError: the image is not in.
        """
        key = self.find(item)
        if key is None:
            raise self._missing(item)
        return self.read(key)

    def stack(self, loaded: Sequence[Regions]) -> Memory:
        """The memory of B images; boxes are fractions of the photo, and padded ones zero."""
        features = pad_sequence([regions.features for regions in loaded], batch_first=True)  # (B, R, D)
        boxes = [regions.boxes / torch.tensor(regions.size * 2) for regions in loaded]  # by w, h, w, h
        counts = torch.tensor([len(regions.boxes) for regions in loaded])
        mask = torch.arange(features.shape[1]) < counts[:, None]  # (B, R)
        scores = pad_sequence([regions.scores for regions in loaded], batch_first=True)
        return Memory.from_regions(features, mask, pad_sequence(boxes, batch_first=True), scores)

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
    """One file: what is small of it, and where in it the rest begins."""

    path: Path
    keys: list[str]
    made_with: dict[str, Any] | None
    feature_dim: int
    dtype: np.dtype
    starts: np.ndarray
    sizes: np.ndarray
    offsets: dict[str, int]

    def read(self, index: int) -> Regions:
        """The regions of one of its images."""
        start, end = int(self.starts[index]), int(self.starts[index + 1])
        features = self._rows("features", self.dtype, (self.feature_dim,), start, end)
        boxes = self._rows("boxes", STORED_AS["F32"], (4,), start, end)
        scores = self._rows("scores", STORED_AS["F32"], (), start, end)
        width, height = self.sizes[index].tolist()
        return Regions(features, boxes, scores, (width, height))

    def _rows(self, name: str, dtype: np.dtype, shape: tuple[int, ...], start: int, end: int) -> Tensor:
        """A copy of some rows; a map of the whole file would count as this process's memory."""
        offset = self.offsets[name] + start * dtype.itemsize * int(np.prod(shape, dtype=np.int64))
        mapped = np.memmap(self.path, dtype=dtype, mode="r", offset=offset, shape=(end - start, *shape))
        return torch.from_numpy(np.array(mapped))


def _files(path: Path) -> list[Path]:
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
        )
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, IndexError) as error:
        if isinstance(error, RegionError):
            raise
        raise RegionError(f"{path}: damaged, or not a file of regions ({error})") from error
    if not sound:
        raise RegionError(f"{path}: damaged: its tensors do not fit together")
    return shard


def _offsets(path: Path) -> dict[str, int]:
    """Where each tensor begins in a file that safetensors has checked."""
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    return {name: 8 + length + entry["data_offsets"][0] for name, entry in header.items() if name != "__metadata__"}


# ------------------------------------------------------------------------------------------ writing


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
    meta = {"format": FORMAT, "keys": list(images), "made_with": made_with}
    partial = Path(path).with_name(f"{Path(path).name}.{os.getpid()}.tmp")
    try:
        with open(partial, "wb") as file:
            file.write(save(tensors, metadata={KEY: json.dumps(meta, sort_keys=True)}))
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _require_sound(key: str, regions: Regions, feature_dim: int, dtype: str) -> None:
    num_regions = len(regions.features)
    shapes = (tuple(regions.features.shape), tuple(regions.boxes.shape), tuple(regions.scores.shape))
    if num_regions == 0 or shapes != ((num_regions, feature_dim), (num_regions, 4), (num_regions,)):
        raise RegionError(
            f"the image {key!r} has features, boxes and scores of {shapes}: not (R, {feature_dim}), (R, 4) and (R,) "
            "with at least one region"
        )
    peak = regions.features.float().abs().max().item()
    if not peak <= (FLOAT16_MAX if dtype == "float16" else float("inf")):  # also true for NaN
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
        self.num_shards = len(_files(self.folder))
        self.feature_dim: int | None = None
        self.done: set[str] = set()
        self.waiting: dict[str, Regions] = {}
        if self.num_shards:
            there = RegionFile(self.folder)
            if there.made_with != made_with:
                found = "nothing is known of what it holds, or of what is to be added"
                if there.made_with is not None and made_with is not None:
                    found = "; ".join(differences(there.made_with, made_with))
                raise RegionError(f"{folder} holds other features ({found}): choose another folder, or delete this one")
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


# ------------------------------------------------------------------------------------------ with a detector

Detect = Callable[[Tensor], Sequence[tuple[Tensor, Tensor, Tensor]]]
"""Pixels (B, 3, S, S) uint8 to B images' features (R, D), boxes (R, 4) as fractions of the square, and scores (R,)."""


def build_regions(
    folder: str | Path,
    items: Iterable[CaptionedImage],
    detect: Detect,
    transform: ImageTransform,
    made_with: dict[str, Any] | None = None,
    dtype: str = "float16",
    batch_size: int = 4,
    num_workers: int = 2,
    device: torch.device | str = "cpu",
) -> list[ImageError]:
    """Find the regions of images and write them, or go on where this was interrupted.

    Args:
        folder: of the shards; made where it is missing.
        items: the images; those whose key is in already are skipped.
        detect: a detector, on the device.
        transform: fits images to it.
        made_with: what the features are from, see `RegionFile`.
        dtype: number format of the features, "float16" or "float32".
        batch_size: images that the detector sees at once.
        num_workers: processes that load images.
        device: where the detector runs.

    Returns:
        One error for each image that cannot be read, or whose key another image has; all others are in.

    Raises:
        RegionError: the folder holds features from something else, or the format cannot hold these.
        CacheError: another process is writing to the folder.
    """
    folder = Path(folder)
    with locked(folder), RegionWriter(folder, made_with, dtype) as writer:
        todo, problems = _to_find(items, writer.done)
        loader = DataLoader(
            _Photos(todo, transform),
            batch_size=batch_size,
            num_workers=num_workers,
            collate_fn=list,
            generator=torch.Generator(),  # leaves the global random numbers alone
        )
        with progress("finding regions", len(todo)) as advance:
            for loaded in loader:
                good = [photo for photo in loaded if isinstance(photo, _Photo)]
                problems += [photo for photo in loaded if isinstance(photo, ImageError)]
                if good:
                    pixels = torch.stack([photo.pixels for photo in good])  # (B, 3, S, S)
                    for photo, found in zip(good, detect(pixels.to(device)), strict=True):
                        writer.add(photo.key, _in_pixels(found, photo.size, transform))
                advance(len(loaded))
    return problems


def _to_find(items: Iterable[CaptionedImage], done: set[str]) -> tuple[list[CaptionedImage], list[ImageError]]:
    """The images that are not in yet; and those whose key is that of another one."""
    todo: dict[str, CaptionedImage] = {}
    problems = []
    for item in items:
        other = todo.setdefault(str(item.key), item)
        if other.path != item.path:
            problems.append(ImageError(str(item.path), f"is called {str(item.key)!r}, as {other.path} is"))
    return [item for key, item in todo.items() if key not in done], problems


def _in_pixels(found: tuple[Tensor, Tensor, Tensor], size: tuple[int, int], transform: ImageTransform) -> Regions:
    """What a detector found in the square, in pixels of the photo."""
    features, boxes, scores = (tensor.float().cpu() for tensor in found)
    x0, y0, x1, y1 = transform.grid_box(*size)
    corners = boxes * torch.tensor([x1 - x0, y1 - y0] * 2) + torch.tensor([x0, y0] * 2)
    return Regions(features, corners.clamp(min=0).minimum(torch.tensor(size * 2)), scores, size)


class _Photo(NamedTuple):
    """A photo ready for the detector."""

    key: str
    pixels: Tensor
    size: tuple[int, int]


class _Photos(Dataset):
    """Loads photos; one that cannot be read comes back as its error."""

    def __init__(self, items: Sequence[CaptionedImage], transform: ImageTransform) -> None:
        self.items = items
        self.transform = transform

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> _Photo | ImageError:
        item = self.items[index]
        try:
            photo = self.transform.open(item.path)
        except ImageError as error:
            return error
        return _Photo(str(item.key), self.transform(photo.pixels, photo.box), photo.size)


# ------------------------------------------------------------------------------------------ from other files


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
    with locked(folder), RegionWriter(folder, None, dtype) as writer, progress("bytes", num_bytes) as advance:
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
