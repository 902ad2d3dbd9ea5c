from pathlib import Path

import numpy as np
import pytest
import torch

from captioner.data.batches import (
    BatchLoader,
    BucketedBatches,
    CaptionDataset,
    Collate,
    EncodedCaptions,
    HostBatch,
    ImageFiles,
    LoadError,
    OrderedBatches,
    ResumableLoader,
    stable_seed,
)
from captioner.data.images import ImageError
from captioner.data.synthetic import SyntheticShapes
from captioner.data.transforms import Augmentation, ImageTransform
from captioner.tokenizer import WordLevel
from captioner.types import CaptionedImage, Memory

WORDS = list("abcdefgh")
TOKENIZER = WordLevel(min_count=1).fit([" ".join(WORDS)])


class Numbers:
    """A source that gives (epoch, index) as pixels; image 13 is broken where `broken`."""

    def __init__(self, broken=False):
        self.broken = broken

    def load(self, item, epoch, index):
        if self.broken and index == 13:
            raise ImageError(str(item.path), "is damaged")
        return torch.tensor([epoch, index])

    def stack(self, loaded):
        return torch.stack(loaded)


def images(num_images, num_captions=3):
    rng = np.random.default_rng(0)
    captions = [
        [" ".join(rng.choice(WORDS, rng.integers(1, 15))) for _ in range(num_captions)] for _ in range(num_images)
    ]
    return [CaptionedImage(i, Path(f"{i}.png"), tuple(texts)) for i, texts in enumerate(captions)]


def loader(num_images=40, num_workers=0, broken=False, captions_per_image=None, batch_size=4):
    items, source = images(num_images), Numbers(broken)
    captions = EncodedCaptions(items, TOKENIZER, max_words=20)
    dataset = CaptionDataset(items, captions, source, captions_per_image)
    return ResumableLoader(dataset, BucketedBatches(captions.longest(), batch_size), Collate(source), num_workers)


def seen(batches):
    return [batch.source.tolist() for batch in batches]


# ------------------------------------------------------------------------------------------ captions


def test_captions_end_with_the_end_word_unless_they_are_cut():
    items = [CaptionedImage(0, Path("0"), ("a b c", "a b c d", "", "?")), CaptionedImage(1, Path("1"))]
    captions = EncodedCaptions(items, TOKENIZER, max_words=3)
    whole, cut = captions.of_image(0)
    assert whole.tolist() == [*TOKENIZER.encode("a b c"), TOKENIZER.eos_id]
    assert cut.tolist() == TOKENIZER.encode("a b c")
    assert captions.of_image(1) == []
    assert captions.longest().tolist() == [4, 0]
    assert captions.num_cut == 1


def test_batch_is_sorted_padded_and_complete():
    items = [
        CaptionedImage("short", Path("0"), ("a", "a b")),
        CaptionedImage("none", Path("1")),
        CaptionedImage("long", Path("2"), ("a", "a b c d", "a b")),
    ]
    source = Numbers()
    dataset = CaptionDataset(items, EncodedCaptions(items, TOKENIZER, 9), source)
    batch = Collate(source)([dataset[0, i] for i in range(3)])
    assert [item.image_id for item in batch.items] == ["long", "short", "none"]
    assert batch.source.tolist() == [[0, 2], [0, 0], [0, 1]]
    assert batch.lengths.tolist() == [[5, 3, 2], [3, 2, 0], [0, 0, 0]]
    a, b = TOKENIZER.encode("a b")
    bos, eos, pad = TOKENIZER.bos_id, TOKENIZER.eos_id, TOKENIZER.pad_id
    assert batch.tokens[1].tolist() == [[bos, a, b, eos, pad, pad], [bos, a, eos, *[pad] * 3], [bos, *[pad] * 5]]


def test_more_captions_than_wanted_are_sampled_anew_every_epoch():
    items, source = images(1, num_captions=9), Numbers()
    captions = EncodedCaptions(items, TOKENIZER, 20)
    dataset = CaptionDataset(items, captions, source, captions_per_image=4)
    draws = [[words.tolist() for words in dataset[epoch, 0].captions] for epoch in range(6)]
    everything = [words.tolist() for words in captions.of_image(0)]
    assert all(len(draw) == 4 and all(words in everything for words in draw) for draw in draws)
    assert draws[0] != draws[1]
    assert draws[0] == [words.tolist() for words in dataset[0, 0].captions]


@pytest.mark.parametrize("kind", ["pixels", "memory"])
def test_all_of_a_batch_is_pinned(kind, monkeypatch):
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: pinned.append(tensor.shape) or tensor)
    boxes = torch.zeros(2, 5, 4)
    memory = Memory.from_regions(torch.zeros(2, 5, 3), torch.ones(2, 5, dtype=torch.bool), boxes)
    source = torch.zeros(2, 3, 8, 8) if kind == "pixels" else memory
    batch = HostBatch(source, torch.zeros(2, 1, 4), torch.zeros(2, 1), ["first", "second"]).pin_memory()
    assert batch.items == ["first", "second"]
    expected = [(2, 3, 8, 8)] if kind == "pixels" else [(2, 5, 3), (2, 5), (2, 5, 4)]
    assert sorted(map(tuple, pinned)) == sorted([*expected, (2, 1, 4)])  # lengths stay on the host


# ------------------------------------------------------------------------------------------ which images


@pytest.mark.parametrize("num_images", [1, 7, 64, 187, 1001])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_buckets_lose_no_image_and_are_even(num_images, world_size):
    longest = np.random.default_rng(1).integers(3, 30, num_images)
    ranks = [BucketedBatches(longest, 8, window=5, rank=rank, world_size=world_size) for rank in range(world_size)]
    batches = [rank.of_epoch(3) for rank in ranks]
    assert {len(of_rank) for of_rank in batches} == {len(ranks[0])}
    for step in zip(*batches, strict=True):
        assert all(step)  # something to do for every process
    sizes = [len(batch) for of_rank in batches for batch in of_rank]
    assert max(sizes) <= 8
    assert max(sizes) - min(sizes) <= 1
    everything = [index for of_rank in batches for batch in of_rank for index in batch]
    assert set(everything) == set(range(num_images))
    assert len(everything) == max(num_images, world_size)  # none twice, if there are enough


@pytest.mark.parametrize("num_images", [7, 64, 187, 1001])
def test_a_step_of_several_processes_is_a_step_of_one(num_images):
    longest = np.random.default_rng(1).integers(3, 30, num_images)
    alone = BucketedBatches(longest, 12, window=5).of_epoch(3)
    ranks = [BucketedBatches(longest, 4, window=5, rank=rank, world_size=3).of_epoch(3) for rank in range(3)]
    together = [[index for batch in step for index in batch] for step in zip(*ranks, strict=True)]
    assert [sorted(step) for step in together] == [sorted(batch) for batch in alone]


def test_batches_of_one_image_leave_no_process_without():
    ranks = [BucketedBatches([3] * 5, 1, rank=rank, world_size=4).of_epoch(0) for rank in range(4)]
    assert [[len(batch) for batch in batches] for batches in ranks] == [[1, 1]] * 4
    assert {index for batches in ranks for batch in batches for index in batch} == set(range(5))


def test_buckets_hold_alike_lengths_in_another_order_every_epoch():
    longest = np.random.default_rng(2).integers(3, 30, 1000)
    batches = BucketedBatches(longest, 10, window=20, world_size=2)
    spread = [np.ptp(longest[batch]) for batch in batches.of_epoch(0)]
    assert np.mean(spread) < 3  # of 27 in random order
    first_of_epochs = [longest[batches.of_epoch(epoch)[0]].max() for epoch in range(20)]
    assert len(set(first_of_epochs)) > 5  # not always the longest first
    assert batches.of_epoch(0) == BucketedBatches(longest, 10, window=20, world_size=2).of_epoch(0)
    assert batches.of_epoch(0) != batches.of_epoch(1)
    assert batches.of_epoch(0) != BucketedBatches(longest, 10, seed=1, window=20, world_size=2).of_epoch(0)


def test_processes_work_on_alike_lengths_at_the_same_time():
    longest = np.random.default_rng(3).integers(3, 30, 960)
    ranks = [BucketedBatches(longest, 8, rank=rank, world_size=4).of_epoch(0) for rank in range(4)]
    maxima = np.array([[longest[batch].max() for batch in of_rank] for of_rank in ranks])
    assert np.ptp(maxima, axis=0).max() <= 2


@pytest.mark.parametrize("world_size", [1, 3])
def test_ordered_batches_give_each_image_once(world_size):
    batches = [OrderedBatches(10, 2, rank, world_size).of_epoch(0) for rank in range(world_size)]
    assert sorted(i for of_rank in batches for batch in of_rank for i in batch) == list(range(10))
    assert [len(OrderedBatches(10, 2, rank, world_size)) for rank in range(world_size)] == [len(b) for b in batches]


def test_a_process_too_many_sees_what_another_has():
    assert [OrderedBatches(2, 4, rank, 5).of_epoch(0) for rank in range(5)] == [[[0]], [[1]], [[0]], [[1]], [[0]]]
    assert OrderedBatches(0, 4, 1, 5).of_epoch(0) == []


# ------------------------------------------------------------------------------------------ the loader


@pytest.mark.parametrize("num_workers", [0, 2])
def test_loader_moves_through_epochs(num_workers):
    batches = loader(num_workers=num_workers)
    epochs = [seen(batches) for _ in range(3)]
    assert [{epoch for batch in batches for epoch, _ in batch} for batches in epochs] == [{0}, {1}, {2}]
    assert all(sorted(i for batch in batches for _, i in batch) == list(range(40)) for batches in epochs)
    batches.set_epoch(1)
    assert seen(batches) == epochs[1]


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("num_used", [0, 3, 9, 10])
def test_loader_goes_on_where_another_was(num_workers, num_used):
    whole, before = loader(), loader(num_workers=num_workers)
    expected = seen(whole) + seen(whole)
    iterator = iter(before)
    used = seen(next(iterator) for _ in range(num_used))
    state = before.state_dict()

    after = loader(num_workers=num_workers)
    iterator = iter(after)  # a trainer makes the iterator first
    after.load_state_dict(state)
    after.set_epoch(num_used // 10)
    rest = seen(iterator)
    assert used + rest == expected[: num_used + len(rest)]
    assert len(rest) == 10 - num_used % 10
    assert seen(after) == (expected + seen(whole))[num_used + len(rest) :][:10]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_abandoned_epoch_does_not_disturb_the_next(num_workers):
    batches = loader(num_workers=num_workers)
    next(iter(batches))
    batches.set_epoch(5)
    assert [{epoch for epoch, _ in batch} for batch in seen(batches)] == [{5}] * 10


def test_resume_loads_nothing_that_was_used():
    batches = loader()
    batches.load_state_dict({"epoch": 2, "num_used": 8, "num_batches": 10})
    loaded = []
    load = batches.dataset.source.load
    batches.dataset.source.load = lambda item, epoch, index: loaded.append(index) or load(item, epoch, index)
    assert len(list(batches)) == 2
    assert len(loaded) == 8


def test_state_of_other_data_is_refused():
    with pytest.raises(ValueError, match="had 10 batches and has 20 now"):
        loader(batch_size=2).load_state_dict({"epoch": 0, "num_used": 1, "num_batches": 10})


@pytest.mark.parametrize("num_workers", [0, 2])
def test_broken_image_is_one_readable_error(num_workers):
    with pytest.raises(LoadError, match=r"^13\.png: is damaged$"):
        list(loader(num_workers=num_workers, broken=True))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_loaders_leave_the_global_random_numbers_alone(num_workers):
    state = torch.get_rng_state()
    list(loader(num_workers=num_workers))
    assert torch.equal(torch.get_rng_state(), state)


def test_an_evaluation_loader_always_begins_anew():
    items, source = images(10), Numbers()
    dataset = CaptionDataset(items, EncodedCaptions(items, TOKENIZER, 20), source)
    batches = BatchLoader(dataset, OrderedBatches(10, 4), Collate(source))
    next(iter(batches))
    assert [len(batch.items) for batch in batches] == [4, 4, 2]
    assert not hasattr(batches, "state_dict")


# ------------------------------------------------------------------------------------------ pixels


def test_augmentation_depends_on_seed_epoch_and_index_alone(tmp_path):
    items = SyntheticShapes(tmp_path, num_train=2).read("train")
    source = ImageFiles(ImageTransform(32), Augmentation(), seed=0)
    plain = ImageFiles(ImageTransform(32))
    first = source.load(items[0], 0, 0)
    assert first.shape == (3, 32, 32)
    assert first.dtype == torch.uint8
    assert torch.equal(first, source.load(items[0], 0, 0))
    assert not torch.equal(first, source.load(items[0], 1, 0))
    assert not torch.equal(first, source.load(items[0], 0, 1))
    assert not torch.equal(first, ImageFiles(ImageTransform(32), Augmentation(), seed=1).load(items[0], 0, 0))
    assert torch.equal(plain.load(items[0], 0, 0), plain.load(items[0], 1, 0))


def test_stable_seed_is_stable():
    assert stable_seed("a", 1) == 2057769193037142695  # in every process, unlike hash()
    assert len({stable_seed("a", i) for i in range(100)} | {stable_seed("b", i) for i in range(100)}) == 200
    assert 0 <= stable_seed(3) < 2**63
