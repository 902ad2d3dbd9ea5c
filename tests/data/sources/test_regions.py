"""Regions of a file as a source."""

from __future__ import annotations

from pathlib import Path

import torch
from region_cases import DIM, random_regions

from captioner.data.features.regions import RegionFile
from captioner.data.features.write_regions import write_regions
from captioner.data.images import ImageTransform
from captioner.data.sources.regions import StoredRegions
from captioner.types import CaptionedImage, Kind


def item(key, path="nowhere/photo.jpg") -> CaptionedImage:
    return CaptionedImage(key, Path(path))


def test_memory_is_padded_masked_and_in_fractions(tmp_path):
    images = {"a": random_regions(0, 2, (100, 50)), "b": random_regions(1, 4, (30, 60)), "c": random_regions(2, 1)}
    write_regions(tmp_path / "r.safetensors", images, dtype="float32")
    source = StoredRegions(RegionFile(tmp_path / "r.safetensors"), ImageTransform(32))
    memory = source.stack([source.load(item(key), epoch=3, index=0) for key in images])
    (segment,) = memory.segments
    assert segment.kind is Kind.REGIONS
    assert memory.features.shape == (3, 4, DIM)
    assert memory.mask.tolist() == [[True] * 2 + [False] * 2, [True] * 4, [True] + [False] * 3]
    assert not memory.features[~memory.mask].any() and not segment.boxes[~memory.mask].any()
    for row, regions in enumerate(images.values()):
        width, height = regions.size
        for number, (x0, y0, x1, y1) in enumerate(regions.boxes.tolist()):
            expected = torch.tensor([x0 / width, y0 / height, x1 / width, y1 / height])
            torch.testing.assert_close(segment.boxes[row, number], expected)
            assert torch.equal(memory.features[row, number], regions.features[number])
