"""Parallel text made ready for training."""

from __future__ import annotations

import pytest
import torch
from text_cases import PAIRS

from captioner.data import TextTransform
from captioner.data.batches import LoadError
from captioner.data.readers import TextReader
from captioner.tasks.captioning import TextData
from captioner.tokenizer import WordLevel
from captioner.types import TextPair


class Given(TextReader):
    """Pairs that a test gives."""

    def __init__(self, **items: list[TextPair]) -> None:
        self.given = items

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self.given)

    def items(self, split: str) -> list[TextPair]:
        return self.given[split]


def some_pairs(*extra: TextPair) -> list[TextPair]:
    return [*(TextPair(number, source, (target,)) for number, (source, target) in enumerate(PAIRS)), *extra]


def make_data(train: list[TextPair], dev: list[TextPair], **options) -> TextData:
    options = {"source_vocabulary": WordLevel(1), "vocabulary": WordLevel(1), "batch_size": 2} | options
    return TextData(Given(train=train, dev=dev), **options)


def test_a_batch_holds_sentences_and_their_targets():
    data = make_data(some_pairs(), some_pairs())
    batches = list(data.train_dataloader())
    assert sorted(item.key for batch in batches for item in batch.items) == [0, 1, 2, 3]
    for batch in batches:
        assert batch.source.dtype == torch.int64
        for row, item in enumerate(batch.items):
            source = data.transform.tokenizer.encode(item.text)
            assert batch.source[row].tolist() == source + [0] * (batch.source.shape[1] - len(source))
            (target,) = item.captions
            assert data.tokenizer.decode(batch.tokens[row, 0].tolist()) == target
            assert batch.lengths[row].tolist() == [len(target.split()) + 1]


def test_vocabularies_are_of_the_training_split_and_of_their_side():
    data = make_data(some_pairs(), [TextPair(0, "ein Pferd", ("a horse",))])
    assert data.transform.tokenizer.unknown_words("ein Pferd a dog") == ["pferd", "a", "dog"]
    assert data.tokenizer.unknown_words("a horse ein dog") == ["horse", "ein"]
    assert data.transform is data.transform  # learnt once
    assert data.tokenizer is data.tokenizer


def test_validation_gives_each_pair_once_in_order_and_both_need_targets():
    bare = TextPair(9, "ein Hund")
    data = make_data(some_pairs(bare), some_pairs(bare), eval_batch_size=2)
    assert [sorted(item.key for item in batch.items) for batch in data.val_dataloader()] == [[0, 1], [2, 3]]
    assert {item.key for batch in data.train_dataloader() for item in batch.items} == {0, 1, 2, 3}
    with pytest.raises(ValueError, match="nothing in the split 'train' has a caption"):
        _ = make_data([bare], [bare]).tokenizer


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_sentence_without_words_is_one_readable_error(num_workers):
    data = make_data(some_pairs(), some_pairs(TextPair("line 7", "?!", ("what",))), num_workers=num_workers)
    with pytest.raises(LoadError, match=r"^line 7: '\?!': there are no words to read$"):
        list(data.val_dataloader())


def test_a_sentence_without_words_is_found_before_training():
    data = make_data(some_pairs(TextPair("line 7", "?!", ("what",)), TextPair("line 8", "", ("what",))), some_pairs())
    with pytest.raises(
        ValueError, match=r"line 7: '\?!': there are no words to read \(and 1 more of the split 'train'\)"
    ):
        data.setup("fit")
    make_data(some_pairs(), some_pairs()).setup("fit")


def test_sentences_are_the_same_in_every_epoch():
    source = TextTransform(WordLevel(1).fit(["ein hund"]))
    pair = TextPair(0, "ein hund")
    assert source.load(pair, 0, 0).tolist() == source.load(pair, 1, 5).tolist()
