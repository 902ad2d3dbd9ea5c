"""The contract of every source: items loaded one by one, alike in every process, and stacked for the encoder."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from cache_cases import TRANSFORM, SmallEncoder, build
from region_cases import random_regions

from captioner.data import ImageTransform, TextTransform
from captioner.data.features.cache import FeatureCache
from captioner.data.features.regions import RegionFile
from captioner.data.features.write_regions import write_regions
from captioner.data.images import Augmentation
from captioner.data.sources.augmented import AugmentedImages
from captioner.data.sources.cached import CachedFeatures
from captioner.data.sources.regions import StoredRegions
from captioner.tokenizer import WordLevel
from captioner.types import CaptionedImage, Item, Memory, Opened, Source, TextPair

Made = tuple[Source, list[Item], Item]
"""A source, three items that it has, and one that it cannot load."""


def photos(folder: Path, draw) -> list[Item]:
    for seed in range(3):
        draw(seed).save(folder / f"{seed}.png")
    return [CaptionedImage(seed, folder / f"{seed}.png") for seed in range(3)]


def pixels(folder: Path, draw) -> Made:
    return ImageTransform(32), photos(folder, draw), CaptionedImage(9, folder / "9.png")


def augmented(folder: Path, draw) -> Made:
    source = AugmentedImages(ImageTransform(32), Augmentation(), 3)
    return source, photos(folder, draw), CaptionedImage(9, folder / "9.png")


def cached(folder: Path, draw) -> Made:
    items, encoder = photos(folder, draw), SmallEncoder().requires_grad_(False)
    build(folder / "cache", items, encoder)
    source = CachedFeatures(FeatureCache.open(folder / "cache", encoder, TRANSFORM), TRANSFORM)
    return source, items, CaptionedImage(9, folder / "9.png")


def regions(folder: Path, draw) -> Made:
    write_regions(folder / "r.safetensors", {str(seed): random_regions(seed, 2 + seed) for seed in range(3)})
    items = photos(folder, draw)
    return StoredRegions(RegionFile(folder / "r.safetensors"), TRANSFORM), items, CaptionedImage(9, folder / "9.png")


def sentences(folder: Path, draw) -> Made:
    texts = ("a dog", "two small dogs run", "a dog runs")
    source = TextTransform(WordLevel(min_count=1).fit(texts))
    return source, [TextPair(number, text) for number, text in enumerate(texts)], TextPair(9, "...")


@pytest.fixture(params=[pixels, augmented, cached, regions, sentences], ids=lambda make: make.__name__)
def made(request, tmp_path, draw) -> Made:
    make: Callable[..., Made] = request.param
    return make(tmp_path, draw)


def tensors(loaded) -> list[torch.Tensor]:
    return [loaded] if isinstance(loaded, torch.Tensor) else [each for each in loaded if isinstance(each, torch.Tensor)]


def test_what_is_loaded_depends_on_item_epoch_and_index_alone(made):
    source, items, _ = made
    again = pickle.loads(pickle.dumps(source))  # as in a worker
    torch.manual_seed(5)
    for index, item in enumerate(items):
        for one, other in zip(tensors(source.load(item, 1, index)), tensors(again.load(item, 1, index)), strict=True):
            assert torch.equal(one, other)


def test_items_are_stacked_one_row_each(made):
    source, items, _ = made
    stacked = source.stack([source.load(item, 0, index) for index, item in enumerate(items)])
    assert isinstance(stacked, torch.Tensor | Memory)
    assert len(stacked.features if isinstance(stacked, Memory) else stacked) == 3
    if isinstance(stacked, Memory):
        assert stacked.mask.any(dim=1).all()


def test_what_cannot_be_loaded_is_named(made):
    source, _, broken = made
    with pytest.raises(ValueError, match="9") as caught:
        source.load(broken, 0, 0)
    assert "\n" not in str(caught.value)


def test_what_a_user_gives_is_what_evaluation_loads(made):
    source, items, _ = made
    for index, item in enumerate(items):
        opened = source.open(item.text if isinstance(item, TextPair) else item.path)
        assert isinstance(opened, Opened)
        if not isinstance(source, AugmentedImages):
            for one, other in zip(tensors(opened.tensor), tensors(source.load(item, 0, index)), strict=True):
                assert torch.equal(one, other)
        stacked = source.stack([opened.tensor])
        assert len(stacked.features if isinstance(stacked, Memory) else stacked) == 1
        assert opened.source_words if isinstance(item, TextPair) else opened.view[2:] == opened.size == (60, 40)


def test_what_is_missing_among_features_is_known_before(made):
    source, items, broken = made
    assert not list(source.check(items))
    if isinstance(source, CachedFeatures | StoredRegions):
        (problem,) = source.check([*items, broken])
        assert "9" in problem.name


def test_sources_are_told_apart(made, tmp_path, draw):
    source, _, _ = made
    again = pickle.loads(pickle.dumps(source))
    assert source == source
    assert (source == again) == isinstance(source, ImageTransform)  # arguments alone make a transform of photos
