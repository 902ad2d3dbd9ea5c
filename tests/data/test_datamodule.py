from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from captioner.data.batches import LoadError
from captioner.data.datamodule import CaptionData
from captioner.data.feature_cache import CacheError
from captioner.data.synthetic import SyntheticShapes
from captioner.data.transforms import Augmentation, ImageTransform
from captioner.tokenizer import BytePairs, WordLevel
from captioner.types import Memory


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


def data(tmp_path, **options):
    options = {"vocabulary": WordLevel(min_count=1), "batch_size": 8, "eval_batch_size": 4, "num_workers": 0} | options
    reader = options.pop("reader", SyntheticShapes(tmp_path / "pictures", num_train=20, num_dev=6, size=32))
    return CaptionData(reader, ImageTransform(32), **options)


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


def test_the_vocabulary_is_of_the_training_captions_alone(tmp_path):
    module = data(tmp_path)
    assert module.tokenizer is module.tokenizer
    words = {word for item in module.items("train") for text in item.captions for word in text.split()}
    assert module.tokenizer.vocab_size == 4 + len(words)
    assert data(tmp_path, vocabulary=BytePairs(60)).tokenizer.vocab_size <= 60


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


def test_processes_share_the_images(tmp_path):
    batches, vals = [], []
    for rank in range(2):
        module = data(tmp_path)
        module.trainer = SimpleNamespace(global_rank=rank, world_size=2)
        batches.append(list(module.train_dataloader()))
        vals += list(module.val_dataloader())
    assert len(batches[0]) == len(batches[1]) == 2
    assert ids(batches[0] + batches[1]) == sorted(item.image_id for item in module.items("train"))
    assert ids(vals) == sorted(item.image_id for item in module.items("dev"))


def test_training_needs_captions(tmp_path):
    class Half(SyntheticShapes):
        def items(self, split):
            items = super().items(split)
            return [item if i % 2 else type(item)(item.image_id, item.path) for i, item in enumerate(items)]

    class Bare(SyntheticShapes):
        def items(self, split):
            return [type(item)(item.image_id, item.path) for item in super().items(split)]

    assert len(data(tmp_path, reader=Half(tmp_path / "pictures", num_train=10)).items("train")) == 5
    with pytest.raises(ValueError, match="nothing in the split 'train' has a caption"):
        data(tmp_path, reader=Bare(tmp_path / "pictures", num_train=10)).items("train")


def test_a_batch_moves_with_all_but_its_lengths(tmp_path):
    module = data(tmp_path)
    batch = next(iter(module.train_dataloader()))
    moved = module.transfer_batch_to_device(batch, torch.device("meta"), 0)
    assert moved.source.device.type == moved.tokens.device.type == "meta"
    assert moved.lengths is batch.lengths  # they plan the work, in the host's memory
    assert moved.items == batch.items


def test_shapes_are_drawn_once_and_are_the_same_everywhere(tmp_path):
    first = SyntheticShapes(tmp_path / "a", num_train=3).read("train")
    times = [item.path.stat().st_mtime_ns for item in first]
    again = SyntheticShapes(tmp_path / "a", num_train=4).read("train")
    assert [item.path.stat().st_mtime_ns for item in again[:3]] == times
    other = SyntheticShapes(tmp_path / "b", num_train=3).read("train")
    assert [item.path.read_bytes() for item in first] == [item.path.read_bytes() for item in other]
    assert [item.captions for item in first] == [item.captions for item in other]
    assert len(first[0].captions) == 3
