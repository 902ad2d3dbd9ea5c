"""What all data share."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from training_cases import data

from captioner.data.readers import SyntheticShapes
from captioner.tokenizer import BytePairs


def ids(batches):
    return sorted(item.image_id for batch in batches for item in batch.items)


def test_the_vocabulary_is_of_the_training_captions_alone(tmp_path):
    module = data(tmp_path)
    assert module.tokenizer is module.tokenizer
    words = {word for item in module.items("train") for text in item.captions for word in text.split()}
    assert module.tokenizer.vocab_size == 4 + len(words)
    assert data(tmp_path, vocabulary=BytePairs(60)).tokenizer.vocab_size <= 60


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
