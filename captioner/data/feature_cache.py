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
import inspect
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from captioner.data.batches import stable_seed
from captioner.data.files import in_threads, whole_file
from captioner.data.images import ImageError
from captioner.data.transforms import Augmentation, ImageTransform
from captioner.progress import progress_bar
from captioner.types import CaptionedImage, Memory, PackedImage

FORMAT = 1
FLOAT16_MAX = 65504.0
HASH_THREADS = 8
LOG_INTERVAL = 30.0  # seconds between two lines of progress where there is no terminal


class CacheError(ValueError):
    """A cache that does not fit what it is asked for, is damaged, in use, or has no room on the disk."""


# ------------------------------------------------------------------------------------------ what it was made with


def weights_digest(module: nn.Module) -> str:
    """SHA-256 of a module's parameters and buffers: names, types, shapes and bytes, in order."""
    digest = hashlib.sha256()
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(raw.numpy().data)
    return digest.hexdigest()


def description(part: object) -> dict[str, Any]:
    """A part's class and constructor arguments, as JSON values; each argument is an attribute of the same name."""
    names = inspect.signature(type(part)).parameters
    arguments = {name: getattr(part, name) for name in names}
    return json.loads(
        json.dumps({"class": f"{type(part).__module__}.{type(part).__qualname__}", **arguments}, default=_plain)
    )


def _plain(argument: object) -> Any:
    """An argument that JSON does not know: a path, or a part of its own."""
    return str(argument) if isinstance(argument, os.PathLike) else description(argument)


def identity(encoder: nn.Module, transform: ImageTransform) -> dict[str, Any]:
    """What the features of an image depend on, as JSON values.

    Where weights came from (the encoder's argument `weights`) does not count: their bytes do.
    """
    arguments = {name: value for name, value in description(encoder).items() if name != "weights"}
    return {
        "format": FORMAT,
        "encoder": arguments,
        "weights": weights_digest(encoder),
        "transform": description(transform),
    }


def differences(made_with: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """What differs between two identities, in words."""
    found = []
    for part in ("format", "encoder", "transform"):
        old, new = made_with[part], wanted[part]
        if isinstance(old, dict) and isinstance(new, dict):
            names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
            found += [f"the {part}'s {name}: {old.get(name)!r} there, {new.get(name)!r} here" for name in names]
        elif old != new:
            found.append(f"the {part}: {old!r} there, {new!r} here")
    if made_with["weights"] != wanted["weights"]:
        found.append(f"the encoder's weights: {made_with['weights'][:12]} there, {wanted['weights'][:12]} here")
    return found


# ------------------------------------------------------------------------------------------ reading


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
        meta = _read_meta(folder)
        if meta is None:
            raise CacheError(f"{folder}: no feature cache here; `captioner cache` makes one")
        _check_identity(folder, meta, identity(encoder, transform), _described(augmentation))
        grid = tuple(meta["grid"])
        lines, _ = _read_index(folder)
        size, needed = (folder / "features.f16").stat().st_size, _num_rows(lines) * _row_bytes(grid)
        if size < needed:
            raise CacheError(
                f"{folder}: damaged: features.f16 has {size:,} bytes of {needed:,}; delete the folder and "
                "build the cache again"
            )
        return cls(folder, grid, _rows(lines))

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
        for path, digest in zip(paths, in_threads(_file_digest, paths, HASH_THREADS), strict=True):
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
            digest = _file_digest(path)
            if isinstance(digest, ImageError):
                raise digest
            row = self.rows.get(digest)
        if row is None or view >= row.views:
            raise self._missing(str(path), view + 1)
        mapped = np.memmap(
            self.folder / "features.f16",
            dtype=np.float16,
            mode="r",
            offset=(row.start + view) * _row_bytes(self.grid),
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


class CachedFeatures:
    """A cache as a source of training or evaluation, in place of image files.

    Args:
        cache: holds the images' features.
        views: how many views of an image to go through: one an epoch, in turn, beginning at one that
            is drawn from (seed, index), so that in `views` epochs each is seen once. 1 reads the plain image.
        seed: of where to begin.
    """

    def __init__(self, cache: FeatureCache, views: int = 1, seed: int = 0) -> None:
        self.cache = cache
        self.views = views
        self.seed = seed

    def load(self, item: CaptionedImage, epoch: int, index: int) -> Tensor:
        """(h, w, D) float16 features; see `batches.Source`."""
        view = (stable_seed("first view", self.seed, index) + epoch) % self.views
        return self.cache.load(item.path, view)

    def stack(self, loaded: list[Tensor]) -> Memory:
        """The memory of the images."""
        return stack_grids(loaded)


def stack_grids(grids: Sequence[Tensor]) -> Memory:
    """A memory of B grids (h, w, D)."""
    return Memory.from_grid(torch.stack(list(grids)).permute(0, 3, 1, 2))  # (B, D, h, w), no copy


# ------------------------------------------------------------------------------------------ building


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
            grid = _prepare(folder, encoder, transform, augmentation if views > 1 else None, device)
            with _Writer(folder, grid) as writer:
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
) -> tuple[int, int, int]:
    """Check or write cache.json; returns the shape of a row."""
    wanted = identity(encoder, transform)
    meta = _read_meta(folder)
    if meta is None:
        blank = torch.zeros(1, 3, transform.size, transform.size, dtype=torch.uint8, device=device)
        meta = {**wanted, "grid": list(_encode(encoder, blank).shape[1:]), "augmentation": None}
    if meta["augmentation"] is None:  # nothing in the cache is augmented so far
        _check_identity(folder, meta, wanted, None)
        meta["augmentation"] = _described(augmentation)
    else:
        _check_identity(folder, meta, wanted, _described(augmentation))
    with whole_file(folder / "cache.json") as file:
        file.write(json.dumps(meta, indent=2).encode() + b"\n")
    height, width, size = meta["grid"]
    return height, width, size


def _check_room(writer: _Writer, num_images: int, views: int, report: Callable[[str], None]) -> None:
    """Say how much disk is needed and how much there is."""
    needed = num_images * views * _row_bytes(writer.grid)
    free = shutil.disk_usage(writer.folder).free
    shape = "x".join(map(str, writer.grid))
    report(
        f"cache {writer.folder}: {num_images:,} images to encode, {views} x {shape} float16 each: "
        f"{_readable(needed)} of disk needed, {_readable(free)} free"
    )
    if needed > free:
        raise CacheError(f"{writer.folder}: {_readable(needed)} of disk needed, but {_readable(free)} free")


def _fill(
    writer: _Writer, loader: DataLoader, num_images: int, encoder: nn.Module, device: torch.device | str
) -> list[ImageError]:
    """Encode and write images; returns those that cannot be read."""
    problems: list[ImageError] = []
    with progress("encoding", num_images) as advance:
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
    with progress("hashing", len(paths)) as advance:
        for path, digest in zip(paths, in_threads(_file_digest, paths, HASH_THREADS), strict=True):
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
        photo = self.transform.open(data)
        pixels = [self.transform(photo.pixels, photo.box)]
        if self.augmentation is not None and self.views > 1:
            photo = self.transform.open(data, self.augmentation.least_share)  # a crop needs more of its pixels
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

    def __init__(self, folder: Path, grid: tuple[int, int, int]) -> None:
        self.folder = folder
        self.grid = grid
        lines, length = _read_index(folder)
        self.rows = _rows(lines)
        self.num_rows = _num_rows(lines)
        self.index = open(folder / "index.jsonl", "ab")  # noqa: SIM115 (closed by __exit__)
        self.features = open(folder / "features.f16", "ab")  # noqa: SIM115
        size = os.fstat(self.features.fileno()).st_size
        if size < self.num_rows * _row_bytes(grid):
            raise CacheError(
                f"{folder}: damaged: features.f16 is too short; delete the folder and build the cache again"
            )
        self.index.truncate(length)
        self.features.truncate(self.num_rows * _row_bytes(grid))

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, *exception: object) -> None:
        self.index.close()
        self.features.close()

    def add(self, images: Sequence[_Loaded], features: Tensor) -> None:
        """Write images and their features (B, views, h, w, D)."""
        if tuple(features.shape[2:]) != self.grid:
            raise CacheError(f"the encoder gave a grid of {tuple(features.shape[2:])}, the cache has {self.grid}")
        self.features.write(features.contiguous().numpy().data)
        _to_disk(self.features)
        for image in images:
            line = {"sha256": image.digest, "views": features.shape[1], "name": image.path}
            self.index.write(json.dumps(line).encode() + b"\n")
            self.rows[image.digest] = Row(self.num_rows, features.shape[1])
            self.num_rows += features.shape[1]
        _to_disk(self.index)


def _to_disk(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


# ------------------------------------------------------------------------------------------ files


def _read_meta(folder: Path) -> dict[str, Any] | None:
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


def _check_identity(
    folder: Path, meta: dict[str, Any], wanted: dict[str, Any], augmenting: dict[str, Any] | None
) -> None:
    found = differences(meta, wanted)
    if augmenting is not None and meta["augmentation"] != augmenting:
        found.append(f"the augmentation: {meta['augmentation']} there, {augmenting} here")
    if found:
        raise CacheError(
            f"{folder}: this cache was made with something else: {'; '.join(found)}. Go back to what it was made with, "
            "or build a cache in another folder, or delete this one"
        )


def _described(augmentation: Augmentation | None) -> dict[str, Any] | None:
    return None if augmentation is None else description(augmentation)


def _read_index(folder: Path) -> tuple[list[dict[str, Any]], int]:
    """The whole lines of the index, and how many bytes they are."""
    path = folder / "index.jsonl"
    raw = path.read_bytes() if path.is_file() else b""
    length = raw.rfind(b"\n") + 1
    try:
        return [json.loads(line) for line in raw[:length].splitlines()], length
    except ValueError as error:
        raise CacheError(f"{path}: damaged ({error}); delete the folder and build the cache again") from error


def _num_rows(lines: list[dict[str, Any]]) -> int:
    return sum(line["views"] for line in lines)


def _rows(lines: list[dict[str, Any]]) -> dict[str, Row]:
    """Where each image's rows are; the last line counts for an image that was added again with more views."""
    rows, start = {}, 0
    for line in lines:
        rows[line["sha256"]] = Row(start, line["views"])
        start += line["views"]
    return rows


def _row_bytes(grid: tuple[int, ...]) -> int:
    return 2 * int(np.prod(grid))


def _file_digest(path: str | Path | PackedImage) -> str | ImageError:
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


@contextmanager
def locked(folder: Path, wait: bool = False) -> Iterator[None]:
    """Hold a folder for writing, at once or after waiting; the system lets go of it however the process ends."""
    import fcntl  # not on Windows, where a folder can be read but not written

    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise CacheError(f"{folder}: another process is writing to it; wait until it has finished") from error
        yield


def _readable(num_bytes: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if num_bytes < 1000:
            return f"{num_bytes:.{0 if unit == 'bytes' else 1}f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.1f} GB"


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal, a line every half minute in a log; yields a function that counts on."""
    with progress_bar(what, total) as bar:
        done, last = 0, time.monotonic()

        def advance(count: int) -> None:
            nonlocal done, last
            done += count
            bar.advance(count)
            if not sys.stderr.isatty() and time.monotonic() - last > LOG_INTERVAL:
                last = time.monotonic()
                bar.say(f"{what}: {done:,} of {total:,}")

        yield advance
