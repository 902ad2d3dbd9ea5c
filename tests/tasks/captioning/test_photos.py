"""Photos with captions made ready for training: from image files, a cache, regions, shards."""

from __future__ import annotations

from itertools import chain

import pytest
import pytorch_lightning as pl
import torch
from region_cases import DIM, Eyes
from shard_cases import jpeg, pack
from torch import nn
from training_cases import data

from captioner.data import find_reader, open_image
from captioner.data.batches import LoadError
from captioner.data.features.build_cache import build_cache
from captioner.data.features.cache import FeatureCache
from captioner.data.features.find_regions import build_regions
from captioner.data.features.identity import CacheError, identity
from captioner.data.features.regions import RegionError, RegionFile
from captioner.data.images import Augmentation, ImageTransform
from captioner.data.readers import SyntheticShapes
from captioner.data.shards import Shard, ShardImage, index_shard
from captioner.tasks.captioning import CaptionData
from captioner.tokenizer import WordLevel
from captioner.types import CaptionedImage, Kind, Memory


class CountingEncoder(nn.Module):
    """A frozen grid; counts the images that it sees."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.width = width
        self.network = nn.Conv2d(3, width, 16, 16).requires_grad_(False)
        self.num_seen = 0

    def forward(self, pixels):
        self.num_seen += len(pixels)
        return Memory.from_grid(self.network(pixels / 255))


class Task(pl.LightningModule):
    """Keeps the batches that it is given."""

    def __init__(self, encoder=None) -> None:
        super().__init__()
        self.model = nn.Module()
        self.model.encoder = encoder or CountingEncoder()
        self.bias = nn.Parameter(torch.zeros(()))
        self.train_batches, self.val_batches = [], []

    def training_step(self, batch, batch_idx):
        self.train_batches.append(batch)
        return self.bias**2

    def validation_step(self, batch, batch_idx):
        self.val_batches.append(batch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(task, module, epochs=1):
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(task, module)
    return task


def ids(batches):
    return sorted(item.image_id for batch in batches for item in batch.items)


def test_live_images(tmp_path):
    module = data(tmp_path, num_workers=2, augmentation=Augmentation())
    task = fit(Task(), module, epochs=2)
    epochs = [task.train_batches[:3], task.train_batches[3:]]
    names = [item.image_id for item in module.items("train")]
    assert ids(epochs[0]) == ids(epochs[1]) == sorted(names)
    assert [item.image_id for batch in epochs[0] for item in batch.items] != [
        item.image_id for batch in epochs[1] for item in batch.items
    ]
    assert ids(task.val_batches[:2]) == [item.image_id for item in module.items("dev")]
    batch = task.train_batches[0]
    assert batch.source.shape == (len(batch.items), 3, 32, 32)
    assert batch.source.dtype == torch.uint8
    assert batch.tokens.shape[:2] == batch.lengths.shape == (len(batch.items), 3)
    texts = [module.tokenizer.decode(row.tolist()) for row in batch.tokens[0]]
    assert sorted(texts) == sorted(batch.items[0].captions)


def test_a_cache_replaces_the_encoder(tmp_path):
    module = data(tmp_path, cache_dir=str(tmp_path / "cache"), num_workers=2)
    task = fit(Task(), module)
    assert task.model.encoder.num_seen == 1 + 26  # a blank image for the grid's shape, then each image once
    for batch in task.train_batches + task.val_batches:
        pixels = torch.stack([module.transform(_open(item)) for item in batch.items])
        expected = task.model.encoder(pixels)
        assert batch.source.grid == (2, 2)
        torch.testing.assert_close(batch.source.features.float(), expected.features, atol=1e-3, rtol=1e-3)
    assert ids(task.train_batches) == sorted(item.image_id for item in module.items("train"))

    task.model.encoder.num_seen = 0
    fit(Task(task.model.encoder), data(tmp_path, cache_dir=str(tmp_path / "cache")))
    assert task.model.encoder.num_seen == 0


def _open(item):
    from captioner.data.images import open_image

    return open_image(item.path)


def test_live_and_cached_training_see_the_same_batches(tmp_path):
    live = fit(Task(), data(tmp_path), epochs=2)
    cached = fit(Task(), data(tmp_path, cache_dir=str(tmp_path / "cache")), epochs=2)
    for left, right in zip(live.train_batches, cached.train_batches, strict=True):
        assert left.items == right.items
        assert torch.equal(left.tokens, right.tokens)
        assert torch.equal(left.lengths, right.lengths)


def test_a_cache_with_views_is_augmented(tmp_path):
    options = {"augmentation": Augmentation(), "cache_views": 2, "cache_dir": str(tmp_path / "cache")}
    task = fit(Task(), data(tmp_path, **options), epochs=2)
    seen = {}
    for batch in task.train_batches:
        for item, features in zip(batch.items, batch.source.features, strict=True):
            seen.setdefault(item.image_id, []).append(features)
    assert all(not torch.equal(first, second) for first, second in seen.values())
    vals = [batch.source.features for batch in task.val_batches]
    assert torch.equal(torch.cat(vals[:2]), torch.cat(vals[2:]))


@pytest.mark.parametrize("options", [{"augmentation": Augmentation()}, {"cache_views": 2}])
def test_augmentation_and_views_go_together(tmp_path, options):
    with pytest.raises(ValueError, match="cache_views"):
        data(tmp_path, cache_dir=str(tmp_path / "cache"), **options)


def test_a_fine_tuned_encoder_cannot_be_cached(tmp_path):
    encoder = CountingEncoder()
    encoder.network.requires_grad_(True)
    with pytest.raises(ValueError, match="frozen"):
        fit(Task(encoder), data(tmp_path, cache_dir=str(tmp_path / "cache")))


def test_a_stale_cache_is_refused_by_name(tmp_path):
    module = data(tmp_path, cache_dir=str(tmp_path / "cache"))
    encoder = CountingEncoder()
    fit(Task(encoder), module)
    encoder.network.bias.data[0] += 1
    with pytest.raises(CacheError, match="the encoder's weights"):
        fit(Task(encoder), data(tmp_path, cache_dir=str(tmp_path / "cache")))


@pytest.mark.parametrize("cached", [False, True])
def test_a_broken_image_stops_training_with_its_name(tmp_path, cached):
    module = data(tmp_path, cache_dir=str(tmp_path / "cache") if cached else None)
    broken = module.items("train")[5].path
    broken.write_bytes(b"no image")
    with pytest.raises(CacheError if cached else LoadError, match=str(broken)) as error:
        fit(Task(), module)
    assert "\n  File" not in str(error.value)


TRANSFORM = ImageTransform(32)


def build(folder, items, eyes):
    made_with = identity(eyes, TRANSFORM)
    assert not build_regions(folder, items, eyes.detect, TRANSFORM, made_with, num_workers=0)


class Blind(nn.Module):
    """Stands for any features, as `PrecomputedRegions` does."""

    def __init__(self, feature_dim: int = DIM) -> None:
        super().__init__()
        self.feature_dim = feature_dim


def fit_on_regions(tmp_path, encoder, **options):
    reader = SyntheticShapes(tmp_path / "pictures", num_train=10, num_dev=4, size=48)
    module = CaptionData(
        reader, TRANSFORM, WordLevel(min_count=1), regions=str(tmp_path / "r"), batch_size=4, **options
    )
    return fit(Task(encoder), module), module


@pytest.fixture
def everything(tmp_path):
    """Regions of all pictures of both splits, made by `Eyes`."""
    reader = SyntheticShapes(tmp_path / "pictures", num_train=10, num_dev=4, size=48)
    build(tmp_path / "r", [*reader.read("train"), *reader.read("dev")], Eyes())
    return RegionFile(tmp_path / "r")


@pytest.mark.parametrize("encoder", [Eyes, Blind])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_training_and_validation_read_regions(tmp_path, everything, encoder, num_workers):
    task, module = fit_on_regions(tmp_path, encoder(), num_workers=num_workers)
    batches = [*task.train_batches, *task.val_batches]
    seen = sorted(item.key for batch in batches for item in batch.items)
    assert seen == sorted(everything.places)
    for batch in batches:
        assert batch.source.kinds == (Kind.REGIONS,)
        for of_batch, expected in zip(batch.source.features, batch.items, strict=True):
            assert torch.equal(of_batch, everything.load(expected).features)
    (batch,) = module.eval_loader(module.items("dev"))
    torch.testing.assert_close(batch.source.segments[0].boxes[0], torch.tensor([[0, 0, 1, 1], [0, 0, 0.5, 1]]))


def test_no_image_file_is_opened(tmp_path, everything):
    for path in (tmp_path / "pictures").rglob("*.png"):
        path.write_bytes(b"")
    assert fit_on_regions(tmp_path, Blind(), num_workers=0)[0].train_batches


def test_regions_that_do_not_fit_the_model(tmp_path, everything):
    with pytest.raises(RegionError, match="features of size 5, where the encoder says 6"):
        fit_on_regions(tmp_path, Blind(6))
    with pytest.raises(RegionError, match="made with something else"):
        fit_on_regions(tmp_path, Eyes(2.0))


def test_images_without_regions_stop_training_by_name(tmp_path):
    pictures = SyntheticShapes(tmp_path / "pictures", num_train=10, num_dev=4, size=48)
    build(tmp_path / "r", pictures.read("train")[1:], Eyes())
    with pytest.raises(
        CacheError, match=r"5 images are not there or cannot be read:\n.*train_48_0/00000\.png: is not in"
    ):
        fit_on_regions(tmp_path, Blind())


@pytest.mark.parametrize("options", [{"cache_dir": "x"}, {"cache_views": 2}])
def test_regions_go_with_neither_cache_nor_views(tmp_path, options):
    with pytest.raises(ValueError, match="nothing to cache or to augment"):
        fit_on_regions(tmp_path, Blind(), **options)


class Cells(torch.nn.Module):
    """An encoder."""

    def __init__(self):
        super().__init__()
        self.network = torch.nn.Conv2d(3, 4, 16, 16)

    def forward(self, pixels):
        return Memory.from_grid(self.network(pixels / 255))


def data_of_shards(reader, num_workers=0, **options):
    return CaptionData(
        reader,
        ImageTransform(32),
        WordLevel(min_count=1),
        batch_size=4,
        eval_batch_size=4,
        num_workers=num_workers,
        bucket_window=2,
        open_shards=2,
        **options,
    )


def ids_of_batches(batches):
    return [[item.image_id for item in batch.items] for batch in batches]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_training_from_shards_goes_on_exactly(photos, packed, num_workers):
    loader = data_of_shards(find_reader(packed), num_workers).train_dataloader()
    epochs = [list(loader), list(loader)]
    assert sorted(chain(*ids_of_batches(epochs[0]))) == sorted(item.image_id for item in photos.read("train"))
    assert ids_of_batches(epochs[0]) != ids_of_batches(epochs[1])
    files = {item.image_id: ImageTransform(32)(open_image(item.path)) for item in photos.read("train")}
    for batch in epochs[1]:
        assert torch.equal(batch.source, torch.stack([files[item.image_id] for item in batch.items]))
    again = data_of_shards(find_reader(packed), num_workers).train_dataloader()
    again.load_state_dict({"epoch": 1, "num_used": 4, "num_batches": len(loader)})
    rest = list(again)
    assert ids_of_batches(rest) == ids_of_batches(epochs[1])[4:]
    assert all(torch.equal(one.source, other.source) for one, other in zip(rest, epochs[1][4:], strict=True))


def test_validation_reads_every_image_once(photos, packed):
    batches = list(data_of_shards(find_reader(packed)).val_dataloader())
    assert sorted(chain(*ids_of_batches(batches))) == sorted(item.image_id for item in photos.read("dev"))


def test_a_broken_image_in_a_shard_stops_training_by_name(tmp_path, draw):
    notes = b'{"captions": ["a cat"]}'
    shard = pack(
        tmp_path / "train-0.tar", [("1.jpg", jpeg(draw)), ("1.json", notes), ("2.jpg", b"?"), ("2.json", notes)]
    )
    index_shard(shard)
    data = data_of_shards(find_reader(tmp_path))
    with pytest.raises(LoadError, match=r"train-0.tar/2.jpg: not an image"):
        list(data.train_dataloader())


def test_features_of_files_are_found_for_shards(photos, packed, tmp_path):
    """A cache knows an image by its bytes, wherever they lie."""
    encoder = Cells().requires_grad_(False)
    transform = ImageTransform(32)
    files, shards = photos.read("dev"), find_reader(packed).read("dev")
    assert build_cache(tmp_path / "a", files, encoder, transform, num_workers=0, report=str) == []
    assert build_cache(tmp_path / "b", shards, encoder, transform, num_workers=0, report=str) == []
    first, second = (FeatureCache.open(tmp_path / name, encoder, transform) for name in "ab")
    assert first.check(shards) == second.check(files) == []
    for file, image in zip(files, shards, strict=True):
        assert torch.equal(first.load(image.path), second.load(file.path))
    gone = CaptionedImage("x", ShardImage(Shard(f"{tmp_path}/gone.tar"), "x.jpg", 0, 9))
    assert [str(problem) for problem in first.check([gone])] == [f"{tmp_path}/gone.tar/x.jpg: no such file"]
