"""Regions of a file as a source of batches."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn.utils.rnn import pad_sequence

from captioner.data.features.regions import RegionFile, Regions
from captioner.types import CaptionedImage, Memory


class StoredRegions:
    """A file of regions as a source of training or evaluation, in place of image files.

    Args:
        file: holds the images' regions.
    """

    def __init__(self, file: RegionFile) -> None:
        self.file = file

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
