"""Regions of a file in place of image files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch.nn.utils.rnn import pad_sequence

from captioner.data.features.regions import RegionFile, Regions
from captioner.data.images import ImageTransform
from captioner.data.sources.base import as_item
from captioner.types import CaptionedImage, ImageError, Memory, Opened, Source


class StoredRegions(Source):
    """A file of regions as a source of training, of evaluation or of a user's photos, which are given as paths.

    Args:
        file: holds the images' regions.
        transform: opens photos.
    """

    def __init__(self, file: RegionFile, transform: ImageTransform) -> None:
        self.file = file
        self.transform = transform

    def load(self, item: CaptionedImage, epoch: int, index: int) -> Regions:
        """One image's regions, the same in every epoch; see `Source.load`."""
        return self.file.load(item)

    def stack(self, loaded: Sequence[Regions]) -> Memory:
        """The memory of B images; boxes are fractions of the photo, and padded ones zero."""
        features = pad_sequence([regions.features for regions in loaded], batch_first=True)  # (B, R, D)
        boxes = [regions.boxes / torch.tensor(regions.size * 2) for regions in loaded]  # by w, h, w, h
        counts = torch.tensor([len(regions.boxes) for regions in loaded])
        mask = torch.arange(features.shape[1]) < counts[:, None]  # (B, R)
        scores = pad_sequence([regions.scores for regions in loaded], batch_first=True)
        return Memory.from_regions(features, mask, pad_sequence(boxes, batch_first=True), scores)

    def open(self, given: object) -> Opened:
        """See `Source.open`; boxes are fractions of the whole photo."""
        item = as_item(given)
        width, height = self.transform.photo(item.path).size
        return Opened(self.file.load(item), (width, height), (0.0, 0.0, float(width), float(height)))

    def check(self, items: Iterable[CaptionedImage]) -> list[ImageError]:
        """See `RegionFile.check`."""
        return self.file.check(items)
