"""Regions, and a detector that is as simple as can be."""

from __future__ import annotations

import torch
from torch import nn

from captioner.data.features.find_regions import build_regions
from captioner.data.features.identity import identity
from captioner.data.features.regions import Regions
from captioner.data.images import ImageTransform

DIM = 5
TRANSFORM = ImageTransform(32)


def random_regions(seed: int, num_regions: int | None = None, size=(60, 40), dim: int = DIM) -> Regions:
    generator = torch.Generator().manual_seed(seed)
    num_regions = num_regions or 1 + seed % 4
    corners = torch.rand(num_regions, 2, 2, generator=generator).sort(dim=1).values * torch.tensor(size)
    features = torch.randn(num_regions, dim, generator=generator)
    return Regions(features, corners.flatten(1), torch.rand(num_regions, generator=generator), size)


def assert_same(read: Regions, given: Regions, dtype=torch.float32) -> None:
    assert torch.equal(read.features, given.features.to(dtype))
    assert torch.equal(read.boxes, given.boxes)
    torch.testing.assert_close(read.scores, given.scores, equal_nan=True, atol=0, rtol=0)
    assert read.size == given.size


class Eyes(nn.Module):
    """Finds the whole square and its left half; one weight, to be told from others by."""

    feature_dim = DIM

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = weight
        self.value = nn.Parameter(torch.tensor(weight), requires_grad=False)
        self.num_seen = 0

    def detect(self, pixels):
        self.num_seen += len(pixels)
        boxes = torch.tensor([[0, 0, 1, 1], [0, 0, 0.5, 1]])
        means = pixels.float().mean((1, 2, 3)) / 255 * self.value
        return [(mean + torch.arange(2 * DIM).view(2, DIM), boxes, torch.tensor([0.9, 0.8])) for mean in means]


def build(folder, pictures, eyes, transform=TRANSFORM, **options):
    """What `Eyes` find in pictures, in a folder of regions."""
    made_with = identity(eyes, transform)
    return build_regions(folder, pictures, eyes.detect, transform, made_with, **{"num_workers": 0, **options})
