"""What all data share."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from pytorch_lightning.trainer.states import TrainerFn
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


def with_captions(module, split, change):
    """Data whose captions are changed once they are read."""
    module._items[split] = [replace(item, captions=change(item.captions)) for item in module.items(split)]
    return module


def test_captions_without_words_are_not_trained_on_nor_validated(tmp_path):
    """An image whose every caption is an emoji is no empty batch, and no end of a run."""
    wordless = ("...", "\N{DOG FACE}", "\u200b")
    for split in ("train", "dev"):
        module = data(tmp_path, batch_size=1, eval_batch_size=1)
        first = module.items(split)[0].key
        module = with_captions(module, split, lambda captions, split=split: captions)
        module._items[split][0] = replace(module._items[split][0], captions=wordless)
        with pytest.warns(UserWarning, match=f"1 of .* items of the split '{split}' have no caption with a word in it"):
            loader = module.train_dataloader() if split == "train" else module.val_dataloader()
        assert all(batch.lengths.sum() > 0 for batch in loader)
        assert ids(loader) == sorted(item.key for item in module.items(split) if item.key != first)
        bare = with_captions(module, split, lambda captions: ("...",))
        with pytest.raises(ValueError, match=f"nothing in the split '{split}' has a caption with a word"):
            bare.encoded(split)


def test_a_split_without_captions_is_found_before_training(tmp_path):
    module = data(tmp_path)
    module._items["dev"] = [replace(item, captions=("?",)) for item in module.items("dev")]
    with pytest.raises(ValueError, match="nothing in the split 'dev' has a caption"):
        module.setup("fit")


def test_a_run_goes_on_with_the_data_it_began_with(tmp_path):
    """The same vocabulary is not enough."""
    state = data(tmp_path).state_dict()
    fitting, validating = (
        SimpleNamespace(state=SimpleNamespace(fn=fn)) for fn in (TrainerFn.FITTING, TrainerFn.VALIDATING)
    )
    same = data(tmp_path)
    same.trainer = fitting
    same.load_state_dict(state)
    for split in ("train", "dev"):
        changed = with_captions(data(tmp_path), split, lambda captions: captions[::-1] + captions[:1])
        changed.trainer = fitting
        with pytest.raises(ValueError, match=f"the run began with other data: in the split '{split}'"):
            changed.load_state_dict(state)
        changed.trainer = validating
        changed.load_state_dict(state)  # other data may be validated


@pytest.mark.parametrize("change", [{"captions_per_image": 1}, {"max_words": 4}, {"train_split": "dev"}])
def test_a_run_goes_on_with_as_much_of_each_image(tmp_path, change):
    module = data(tmp_path, **change)
    module.trainer = SimpleNamespace(state=SimpleNamespace(fn=TrainerFn.FITTING))
    with pytest.raises(ValueError, match="the run began with "):
        module.load_state_dict(data(tmp_path).state_dict())


def test_a_batch_moves_with_all_but_its_lengths(tmp_path):
    module = data(tmp_path)
    batch = next(iter(module.train_dataloader()))
    moved = module.transfer_batch_to_device(batch, torch.device("meta"), 0)
    assert moved.source.device.type == moved.tokens.device.type == "meta"
    assert moved.lengths is batch.lengths  # they plan the work, in the host's memory
    assert moved.items == batch.items
