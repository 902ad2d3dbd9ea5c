"""Filling a folder of regions with what a detector finds in photos."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from captioner.data.features.cache import HASH_THREADS, file_digest
from captioner.data.features.regions import RegionFile, Regions
from captioner.data.features.write_regions import RegionWriter
from captioner.data.images import ImageTransform
from captioner.files import in_threads, locked
from captioner.progress import logged_progress
from captioner.types import CaptionedImage, ImageError

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
        items: the images; those that are in already are skipped.
        detect: a detector, on the device.
        transform: fits images to it.
        made_with: what the features are from, see `RegionFile`.
        dtype: number format of the features, "float16" or "float32".
        batch_size: images that the detector sees at once.
        num_workers: processes that load images.
        device: where the detector runs.

    Returns:
        One error for each image that cannot be read, or whose key another image has, here or in the folder; all others
        are in.

    Raises:
        RegionError: the folder holds features from something else, or the format cannot hold these.
        CacheError: another process is writing to the folder.
    """
    folder = Path(folder)
    with locked(folder), RegionWriter(folder, made_with, dtype) as writer:
        todo, problems = _to_find(items, writer.there, transform)
        loader = DataLoader(
            _Photos(todo, transform),
            batch_size=batch_size,
            num_workers=num_workers,
            collate_fn=list,
            generator=torch.Generator(),  # leaves the global random numbers alone
        )
        with logged_progress("finding regions", len(todo)) as advance:
            for loaded in loader:
                good = [photo for photo in loaded if isinstance(photo, _Photo)]
                problems += [photo for photo in loaded if isinstance(photo, ImageError)]
                if good:
                    pixels = torch.stack([photo.pixels for photo in good])  # (B, 3, S, S)
                    for photo, found in zip(good, detect(pixels.to(device)), strict=True):
                        regions = _in_pixels(found, photo.size, transform)
                        writer.add(photo.key, regions._replace(photo=photo.digest))
                advance(len(loaded))
    return problems


def _to_find(
    items: Iterable[CaptionedImage], stored: RegionFile | None, transform: ImageTransform
) -> tuple[list[CaptionedImage], list[ImageError]]:
    """The images that are not in yet; and those whose key is that of another one."""
    todo: dict[str, CaptionedImage] = {}
    problems = []
    for item in items:
        other = todo.setdefault(str(item.key), item)
        if other.path != item.path:
            problems.append(ImageError(str(item.path), f"is called {str(item.key)!r}, as {other.path} is"))
    if stored is None:
        return list(todo.values()), problems
    there = [todo.pop(key) for key in [*todo] if key in stored.places]
    with logged_progress("hashing", len(there)) as advance:
        for problem in in_threads(lambda item: _clash(item, stored, transform), there, HASH_THREADS):
            problems += [] if problem is None else [problem]
            advance(1)
    return list(todo.values()), problems


def _clash(item: CaptionedImage, stored: RegionFile, transform: ImageTransform) -> ImageError | None:
    """The error for an image whose key is stored, if that is another photo's; or why the image cannot be read."""
    key = str(item.key)
    digest, size = stored.photo(key)
    try:
        found = transform.photo(item.path).size if digest is None else file_digest(item.path)
    except ImageError as error:
        return error
    if isinstance(found, ImageError):
        return found
    if found == (size if digest is None else digest):
        return None
    return ImageError(
        str(item.path),
        f"is called {key!r}, and the regions that {stored.path} holds under this name are of another photo (or of this "
        "one before it was changed): rename it, or choose another folder",
    )


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
    digest: str


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
            data = item.path.read_bytes()  # hashed and decoded from the same bytes
            photo = self.transform.photo(data)
        except ImageError as error:
            return ImageError(str(item.path), error.reason)
        except OSError as error:
            return ImageError(str(item.path), error.strerror or type(error).__name__)
        return _Photo(
            str(item.key), self.transform(photo.pixels, photo.box), photo.size, hashlib.sha256(data).hexdigest()
        )
