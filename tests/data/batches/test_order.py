"""Which images make which batch."""

from __future__ import annotations

import numpy as np
import pytest

from captioner.data.batches import BucketedBatches, OrderedBatches


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


def shard_numbers(num_shards, each=50):
    return np.repeat(np.arange(num_shards), each)


@pytest.mark.parametrize("num_shards", [1, 2, 5, 23])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_an_epoch_of_shards_is_exact(num_shards, world_size):
    shards = shard_numbers(num_shards, 31)
    longest = np.random.default_rng(0).integers(3, 30, len(shards))

    def batches(rank, epoch):
        return BucketedBatches(longest, 8, 1, 4, rank, world_size, shards, open_shards=3).of_epoch(epoch)

    epochs = [[batches(rank, epoch) for rank in range(world_size)] for epoch in (0, 1)]
    for epoch in epochs:
        assert len({len(of_rank) for of_rank in epoch}) == 1
        everything = sorted(index for of_rank in epoch for batch in of_rank for index in batch)
        assert everything == list(range(len(shards)))
    assert epochs[0] != epochs[1]
    assert epochs[0] == [batches(rank, 0) for rank in range(world_size)]


def test_few_shards_are_read_at_a_time_and_batches_mix_them():
    shards = shard_numbers(60)
    longest = np.random.default_rng(0).integers(3, 30, len(shards))
    batches = BucketedBatches(longest, 10, window=10, shards=shards, open_shards=6).of_epoch(0)
    num_open = [len({shards[index] for batch in batches[i : i + 20] for index in batch}) for i in range(280)]
    assert max(num_open) <= 3 * 6 + 2  # the windows of batches that are sorted by length reach over
    mixed = [len({shards[index] for index in batch}) for batch in batches]
    assert min(mixed[:20]) >= 2  # from the first batch on
    assert np.mean(mixed) > 4
    seen = np.zeros(60, dtype=int)
    for batch in batches:
        seen += np.bincount(shards[batch], minlength=60)
    assert (seen == 50).all()


def test_one_shard_or_a_few_are_as_random_as_files():
    longest = np.random.default_rng(0).integers(3, 30, 400)
    plain = BucketedBatches(longest, 8).of_epoch(2)
    assert BucketedBatches(longest, 8, shards=np.zeros(400, dtype=int)).of_epoch(2) == plain
    firsts = []
    for epoch in range(200):
        first = BucketedBatches(longest, 8, shards=shard_numbers(4, 100)).of_epoch(epoch)[0]
        firsts += [index // 100 for index in first]
    assert np.allclose(np.bincount(firsts) / len(firsts), 1 / 4, atol=0.06)
