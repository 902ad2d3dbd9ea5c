"""Filling a feature cache, in one pass of the encoder over the images."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from captioner.data.features.cache import HASH_THREADS, check_identity, described, file_digest, require_rows
from captioner.data.features.identity import FLOAT16_MAX, CacheError, identity
from captioner.data.features.index import (
    Row,
    index_line,
    read_index,
    read_meta,
    row_bytes,
    row_checksum,
    write_meta,
)
from captioner.data.images import Augmentation, ImageTransform
from captioner.files import in_threads, locked
from captioner.progress import logged_progress
from captioner.seeds import stable_seed
from captioner.types import CaptionedImage, ImageError, PackedImage


def build_cache(
    folder: str | Path,
    items: Iterable[CaptionedImage],
    encoder: nn.Module,
    transform: ImageTransform,
    augmentation: Augmentation | None = None,
    views: int = 1,
    batch_size: int = 32,
    num_workers: int = 2,
    device: torch.device | str = "cpu",
    report: Callable[[str], None] = print,
    wait: bool = False,
) -> list[ImageError]:
    """Make a cache, go on with one that was interrupted, or add images to one.

    Args:
        folder: the cache; made where it is missing.
        items: the images; those that are in the cache already are skipped.
        encoder: a frozen encoder: uint8 pixels (B, 3, S, S) in, a memory with a grid out. It is moved to
            the device and stays there.
        transform: fits images to it.
        augmentation: makes the views after the first; needed where `views` is more than 1.
        views: how often each image is stored: once plain, the others augmented by (view, image).
        batch_size: images that the encoder sees at once, each view counted.
        num_workers: processes that load images.
        device: where the encoder runs.
        report: gets a line of text that says how much disk is needed.
        wait: whether to wait where another process is building it.

    Returns:
        One error for each image that cannot be read; all others are in the cache.

    Raises:
        CacheError: the cache was made with something else (the error names what), another process is
            building it, there is no room on the disk, or the encoder's features do not fit.
        ValueError: the encoder is not frozen, or views and augmentation do not go together.
    """
    if any(parameter.requires_grad for parameter in encoder.parameters()):
        raise ValueError(
            "only a frozen encoder's features can be cached, and this one is fine-tuned: freeze it, or train without "
            "a cache"
        )
    if views < 1 or (views > 1 and augmentation is None):
        raise ValueError(f"{views} views need an augmentation to make them; without one there is exactly 1")
    folder = Path(folder)
    was_training = encoder.training
    encoder.eval().to(device)
    try:
        with locked(folder, wait):
            meta = _prepare(folder, encoder, transform, augmentation if views > 1 else None, device)
            with _Writer(folder, meta) as writer:
                todo, problems = _not_in(writer.rows, [item.path for item in items], views)
                _check_room(writer, len(todo), views, report)
                loader = DataLoader(
                    _Files(todo, _Views(transform, augmentation, views)),
                    batch_size=max(1, batch_size // views),
                    num_workers=num_workers,
                    collate_fn=list,
                    generator=torch.Generator(),  # leaves the global random numbers alone
                )
                return problems + _fill(writer, loader, len(todo), encoder, device)
    finally:
        encoder.train(was_training)


def _prepare(
    folder: Path,
    encoder: nn.Module,
    transform: ImageTransform,
    augmentation: Augmentation | None,
    device: torch.device | str,
) -> dict[str, Any]:
    """Check or write cache.json; returns what it says."""
    wanted = identity(encoder, transform)
    meta = read_meta(folder)
    if meta is None:
        blank = torch.zeros(1, 3, transform.size, transform.size, dtype=torch.uint8, device=device)
        meta = {**wanted, "grid": list(_encode(encoder, blank).shape[1:]), "augmentation": None}
    if meta["augmentation"] is None:  # nothing in the cache is augmented so far
        check_identity(folder, meta, wanted, None)
        meta["augmentation"] = described(augmentation)
    else:
        check_identity(folder, meta, wanted, described(augmentation))
    write_meta(folder, meta)
    return meta


def _check_room(writer: _Writer, num_images: int, views: int, report: Callable[[str], None]) -> None:
    """Say how much disk is needed and how much there is."""
    needed = num_images * views * row_bytes(writer.grid)
    free = shutil.disk_usage(writer.folder).free
    shape = "x".join(map(str, writer.grid))
    report(
        f"cache {writer.folder}: {num_images:,} images to encode, {views} x {shape} float16 each: "
        f"{_readable(needed)} of disk needed, {_readable(free)} free"
    )
    if writer.num_unchecked:
        report(f"cache {writer.folder}: {writer.num_unchecked:,} images of an earlier version have no checksums")
    if needed > free:
        raise CacheError(f"{writer.folder}: {_readable(needed)} of disk needed, but {_readable(free)} free")


def _fill(
    writer: _Writer, loader: DataLoader, num_images: int, encoder: nn.Module, device: torch.device | str
) -> list[ImageError]:
    """Encode and write images; returns those that cannot be read."""
    problems: list[ImageError] = []
    with logged_progress("encoding", num_images) as advance:
        for loaded in loader:
            good = [image for image in loaded if isinstance(image, _Loaded)]
            problems += [image for image in loaded if isinstance(image, ImageError)]
            if good:
                pixels = torch.stack([image.pixels for image in good]).flatten(0, 1)  # (B * views, 3, S, S)
                features = _encode(encoder, pixels.to(device)).cpu()
                writer.add(good, features.unflatten(0, (len(good), -1)))
            advance(len(loaded))
    return problems


def _not_in(
    rows: dict[str, Row], paths: list[Path | PackedImage], views: int
) -> tuple[list[Path | PackedImage], list[ImageError]]:
    """The paths whose images have no rows yet (each image once), and what cannot be read."""
    todo, problems = [], []
    seen = {digest for digest, row in rows.items() if row.views >= views}
    with logged_progress("hashing", len(paths)) as advance:
        for path, digest in zip(paths, in_threads(file_digest, paths, HASH_THREADS), strict=True):
            if isinstance(digest, ImageError):
                problems.append(digest)
            elif digest not in seen:
                seen.add(digest)
                todo.append(path)
            advance(1)
    return todo, problems


def _encode(encoder: nn.Module, pixels: Tensor) -> Tensor:
    """(B, h, w, D) float16 features of uint8 pixels (B, 3, S, S)."""
    with torch.inference_mode():
        memory = encoder(pixels)
    if memory.grid is None:
        raise CacheError(
            "only memories that are one grid can be cached; `captioner regions` stores the regions of a detector"
        )
    features = memory.features.float()
    peak = features.abs().max().item()
    if not peak <= FLOAT16_MAX:  # also true for NaN
        raise CacheError(f"the encoder's features reach {peak}, which float16 cannot hold: train without a cache")
    return features.half().unflatten(1, memory.grid)


class _Views(NamedTuple):
    """Makes the views of an image."""

    transform: ImageTransform
    augmentation: Augmentation | None
    views: int

    def __call__(self, data: bytes, digest: str) -> Tensor:
        """(views, 3, S, S) uint8 pixels of a file's bytes."""
        photo = self.transform.photo(data)
        pixels = [self.transform(photo.pixels, photo.box)]
        if self.augmentation is not None and self.views > 1:
            photo = self.transform.photo(data, self.augmentation.least_share)  # a crop needs more of its pixels
            for view in range(1, self.views):
                pixels.append(self.transform(self.augmentation(photo.pixels, stable_seed("view", view, digest))))
        return torch.stack(pixels)


class _Loaded(NamedTuple):
    """An image that is ready to be encoded."""

    path: str
    digest: str
    pixels: Tensor


class _Files(Dataset):
    """Loads images; one that cannot be read comes back as its error."""

    def __init__(self, paths: list[Path | PackedImage], views: _Views) -> None:
        self.paths = paths
        self.views = views

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> _Loaded | ImageError:
        name = str(self.paths[index])
        try:
            data = self.paths[index].read_bytes()  # hashed and decoded from the same bytes
            digest = hashlib.sha256(data).hexdigest()
            return _Loaded(name, digest, self.views(data, digest))
        except ImageError as error:
            return ImageError(name, error.reason)
        except OSError as error:
            return ImageError(name, error.strerror or type(error).__name__)


class _Writer:
    """Adds images to a cache: features first, then, once they are on the disk, the lines that name them.

    What a killed process left behind without a line, or with half a line, is cut off first.
    """

    def __init__(self, folder: Path, meta: dict[str, Any]) -> None:
        self.folder = folder
        self.meta = meta
        self.grid = tuple(meta["grid"])
        self.rows, self.num_rows, length, self.num_unchecked = read_index(folder, meta)
        require_rows(folder, self.num_rows, self.grid)
        self.index = open(folder / "index.jsonl", "ab")  # noqa: SIM115 (closed by __exit__)
        self.features = open(folder / "features.f16", "ab")  # noqa: SIM115
        self.index.truncate(length)
        self.features.truncate(self.num_rows * row_bytes(self.grid))

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, *exception: object) -> None:
        self.index.close()
        self.features.close()

    def add(self, images: Sequence[_Loaded], features: Tensor) -> None:
        """Write images and their features (B, views, h, w, D)."""
        if tuple(features.shape[2:]) != self.grid:
            raise CacheError(f"the encoder gave a grid of {tuple(features.shape[2:])}, the cache has {self.grid}")
        written = features.contiguous().numpy()
        self.features.write(written.data)
        _to_disk(self.features)
        for image, views in zip(images, written, strict=True):
            row = Row(self.num_rows, len(views), tuple(map(row_checksum, views)))
            self.index.write(index_line(image.digest, row, image.path, self.meta))
            self.rows[image.digest] = row
            self.num_rows += len(views)
        _to_disk(self.index)


def _to_disk(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


def _readable(num_bytes: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if num_bytes < 1000:
            return f"{num_bytes:.{0 if unit == 'bytes' else 1}f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.1f} GB"
