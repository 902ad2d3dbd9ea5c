"""The operations of a training step, on paper."""

from __future__ import annotations

import pytest

from benchmarks import launches
from benchmarks.workload import Sizes

SIZES = Sizes(num_images=4, captions_per_image=2, grid=3, feature_dim=16, hidden_dim=8, vocab_size=50)


def test_operations_grow_by_the_word():
    found = launches.count_launches(SIZES)
    for num_words in (5, 12):
        forward, backward, optimiser = launches._count(SIZES, num_words)
        assert forward + backward + optimiser == pytest.approx(found.of(num_words))
    assert 10 < found.word_forward < found.word_backward
    assert found.once > 0


def test_their_number_does_not_depend_on_the_sizes():
    assert launches.count_launches(SIZES) == launches.count_launches(Sizes())


def test_the_table_says_what_they_come_to():
    text = launches.table(launches.Launches(30, 60, 100, 50, 90), 10.0)
    assert "1,140 operations, 5.7 ms" in text
    assert "260 operations and 2 graphs, 1.3 ms" in text
    assert "1,080 kernels take a GPU 2.2 ms" in text  # of 12 words, a multiple of 4
