"""A cache that was made with something else is refused, and the difference is named."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from cache_cases import SmallEncoder, build
from torch import nn

from captioner.data.features.cache import FeatureCache
from captioner.data.features.identity import CacheError, agree, differences, identity
from captioner.data.images import Augmentation, ImageTransform

TRANSFORM = ImageTransform(32)


def flip_bit(tensor):
    tensor.view(-1).view(torch.uint8)[1] ^= 1


@pytest.mark.parametrize(
    "change",
    [
        lambda encoder: flip_bit(encoder.network[0].weight.data),
        lambda encoder: flip_bit(encoder.network[1].running_mean),
        lambda encoder: flip_bit(encoder.scale),
        lambda encoder: encoder.half(),
    ],
    ids=["a weight", "a statistic", "a buffer outside the state dict", "the number format"],
)
def test_changed_weights_are_refused(folder, items, encoder, change):
    build(folder, items, encoder)
    change(encoder)
    with pytest.raises(CacheError, match=r"made with something else: the encoder's weights: .* there, .* here"):
        FeatureCache.open(folder, encoder, TRANSFORM)
    with pytest.raises(CacheError, match="the encoder's weights"):
        build(folder, items, encoder)


def test_changed_transform_encoder_and_augmentation_are_named(folder, items, encoder):
    build(folder, items, encoder, augmentation=Augmentation(), views=2)
    with pytest.raises(CacheError, match="the transform's size: 32 there, 48 here") as error:
        FeatureCache.open(folder, encoder, replace(TRANSFORM, size=48))
    assert "weights" not in str(error.value)
    with pytest.raises(CacheError, match="the transform's fit: 'squash' there, 'pad' here"):
        FeatureCache.open(folder, encoder, replace(TRANSFORM, fit="pad"))
    with pytest.raises(CacheError, match="the encoder's width: 6 there, 7 here"):
        FeatureCache.open(folder, SmallEncoder(width=7), TRANSFORM)
    with pytest.raises(CacheError, match=r"the augmentation: .*'flip': 0\.5.* there, .*'flip': 0\.1.* here"):
        FeatureCache.open(folder, encoder, TRANSFORM, Augmentation(flip=0.1))
    with pytest.raises(CacheError, match="the augmentation"):
        build(folder, items, encoder, augmentation=Augmentation(flip=0.1), views=2)
    FeatureCache.open(folder, SmallEncoder(weights="from elsewhere"), TRANSFORM)  # the bytes count, not the source


class Wrapped(nn.Module):
    """An encoder of one's own, around another one."""

    def __init__(self, inner: nn.Module, name: str = "x") -> None:
        super().__init__()
        self.inner = inner
        self.name = name


def test_parts_among_the_arguments_are_told_apart_by_any_of_their_names():
    """As caches of version 0.1.0 have them: arguments beside the class, at every depth."""
    made = identity(Wrapped(SmallEncoder(4)), TRANSFORM)
    assert made["encoder"]["inner"].keys() == {"class", "width", "weights"}
    assert made["encoder"]["inner"]["width"] == 4
    (found,) = (line for line in differences(made, identity(Wrapped(SmallEncoder(5)), TRANSFORM)) if "inner" in line)
    assert found.startswith("the encoder's inner: {'class': ")
    old = {**made, "transform": {**made["transform"], "class": "captioner.data.transforms.ImageTransform"}}
    assert differences(old, made) == []
    assert agree(old, made)
    assert not agree(old, {**made, "format": 2})
    assert agree(None, None)
    assert not agree(None, made)
