"""Loading batches, and going on where a run was cut off."""

from __future__ import annotations

import pytest
import torch
from batch_cases import WORDS, Numbers, images

from captioner.data.batches import (
    BatchLoader,
    BucketedBatches,
    CaptionDataset,
    Collate,
    EncodedCaptions,
    LoadError,
    OrderedBatches,
    ResumableLoader,
)
from captioner.tokenizer import WordLevel

TOKENIZER = WordLevel(min_count=1).fit([" ".join(WORDS)])


def loader(num_images=40, num_workers=0, broken=False, captions_per_image=None, batch_size=4):
    items, source = images(num_images), Numbers(broken)
    captions = EncodedCaptions(items, TOKENIZER, max_words=20)
    dataset = CaptionDataset(items, captions, source, captions_per_image)
    return ResumableLoader(dataset, BucketedBatches(captions.longest(), batch_size), Collate(source), num_workers)


def seen(batches):
    return [batch.source.tolist() for batch in batches]


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
