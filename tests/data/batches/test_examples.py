"""From items to a batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from batch_cases import WORDS, Numbers, images

from captioner.data.batches import CaptionDataset, Collate, EncodedCaptions, HostBatch
from captioner.tokenizer import WordLevel
from captioner.types import CaptionedImage, Memory

TOKENIZER = WordLevel(min_count=1).fit([" ".join(WORDS)])


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
