"""Image files with augmentation as a source."""

from __future__ import annotations

import torch

from captioner.data.images import Augmentation, ImageTransform
from captioner.data.readers import SyntheticShapes
from captioner.data.sources.augmented import AugmentedImages


def test_augmentation_depends_on_seed_epoch_and_index_alone(tmp_path):
    items = SyntheticShapes(tmp_path, num_train=2).read("train")
    source = AugmentedImages(ImageTransform(32), Augmentation(), seed=0)
    plain = ImageTransform(32)
    first = source.load(items[0], 0, 0)
    assert first.shape == (3, 32, 32)
    assert first.dtype == torch.uint8
    assert torch.equal(first, source.load(items[0], 0, 0))
    assert not torch.equal(first, source.load(items[0], 1, 0))
    assert not torch.equal(first, source.load(items[0], 0, 1))
    assert not torch.equal(first, AugmentedImages(ImageTransform(32), Augmentation(), seed=1).load(items[0], 0, 0))
    assert torch.equal(plain.load(items[0], 0, 0), plain.load(items[0], 1, 0))
    assert torch.equal(source.open(items[0].path).tensor, plain.load(items[0], 0, 0))  # a user's photo stays as it is
