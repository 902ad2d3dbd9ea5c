"""Sentences in place of photos: what makes them ready, readers of parallel text, and its batches."""

from __future__ import annotations

import json
import pickle
import re
from pathlib import Path

import pytest
import torch

from captioner.data.batches import LoadError
from captioner.data.text import ParallelText, Sentences, TextError, TextReader, TextTransform, pad_sentences
from captioner.data.text_datamodule import TextData
from captioner.tokenizer import BytePairs, Characters, WordLevel
from captioner.types import TextPair

PAIRS = [
    ("ein Hund", "a dog"),
    ("eine rote Katze", "a red cat"),
    ("ein Haus", "a house"),
    ("ein rotes Haus", "a red house"),
]


def write(path: Path, *lines: str) -> str:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return str(path)


def pairs_of(files: str | list[str]) -> list[tuple]:
    return [(item.key, item.text, item.captions) for item in ParallelText({"train": files}).read("train")]


# ------------------------------------------------------------------------------------------ the transform


@pytest.fixture(params=[WordLevel(1), BytePairs(60), Characters()], ids=lambda builder: type(builder).__name__)
def transform(request) -> TextTransform:
    return TextTransform(request.param.fit(source for source, _ in PAIRS))


def test_a_sentence_becomes_its_ids(transform):
    ids = transform("Ein rotes Haus!")
    assert ids.dtype == torch.int64
    assert ids.tolist() == transform.tokenizer.encode("ein rotes haus!")
    assert pickle.loads(pickle.dumps(transform))("ein hund").tolist() == transform("ein hund").tolist()


@pytest.mark.parametrize("text", ["Ein rotes Haus!", "eine Rothaut", "ein", "Ka Tz"])
def test_each_id_has_its_word_or_piece(transform, text):
    words = transform.words(text)
    assert len(words) == len(transform(text))
    assert re.sub(r"\W", "", "".join(words)) == re.sub(r"\W", "", text.lower())


def test_words_are_named_as_spelt_though_unknown():
    transform = TextTransform(WordLevel(1).fit(["ein hund"]))
    assert transform.words("Ein Känguru, ein Hund") == ["ein", "känguru", "ein", "hund"]


@pytest.mark.parametrize("text", ["", "   ", "?!"])
def test_a_sentence_without_words_is_an_error(text):
    with pytest.raises(TextError, match=re.escape(f"{text!r}: there are no words to read")):
        TextTransform(WordLevel(1).fit(["ein hund"]))(text)


def test_padding_stands_behind():
    padded = pad_sentences([torch.tensor([5]), torch.tensor([6, 7, 8])])
    assert padded.tolist() == [[5, 0, 0], [6, 7, 8]]


# ------------------------------------------------------------------------------------------ parallel text


def test_tabs_two_files_and_json_give_the_same(tmp_path):
    expected = [(number, source, (target,)) for number, (source, target) in enumerate(PAIRS, 1)]
    tabs = write(tmp_path / "train.tsv", *(f"{source}\t{target} " for source, target in PAIRS))
    sources = write(tmp_path / "train.de", *(f" {source}" for source, _ in PAIRS))
    targets = write(tmp_path / "train.en", *(target for _, target in PAIRS))
    objects = write(tmp_path / "train.jsonl", *(json.dumps({"source": s, "target": t}) for s, t in PAIRS))
    assert pairs_of(tabs) == pairs_of([sources, targets]) == pairs_of(objects) == expected


def test_names_and_several_targets(tmp_path):
    rows = [{"id": "a", "source": "x", "target": ["y", "z"]}, {"id": 7, "source": "v", "target": []}]
    objects = write(tmp_path / "a.jsonl", *map(json.dumps, rows))
    assert pairs_of(objects) == [("a", "x", ("y", "z")), (7, "v", ())]
    assert pairs_of(write(tmp_path / "a.tsv", "x\ty\tz")) == [(1, "x", ("y", "z"))]


def test_blank_lines_are_left_out_but_counted(tmp_path):
    assert [key for key, *_ in pairs_of(write(tmp_path / "a.tsv", "", "a\tb", "  ", "c\td", ""))] == [2, 4]
    left, right = write(tmp_path / "a.de", "a", "", "c"), write(tmp_path / "a.en", "b", " ", "d")
    assert pairs_of([left, right]) == [(1, "a", ("b",)), (3, "c", ("d",))]


def test_lines_end_where_files_end_them(tmp_path):
    """Not at the other characters that Python takes for the end of a line, which a sentence may hold."""
    (tmp_path / "a.de").write_bytes("\ufeffa\u2028b\r\nc\x0bd\r\n".encode())
    right = write(tmp_path / "a.en", "1", "2")
    assert pairs_of([str(tmp_path / "a.de"), right]) == [(1, "a\u2028b", ("1",)), (2, "c\x0bd", ("2",))]


MALFORMED = {
    "no tab": ("a.tsv", ["a\tb", "no tab here"], "a.tsv, line 2: no tab between source and target: 'no tab here'"),
    "no source": ("a.tsv", ["a\tb", "", "\tb"], "a.tsv, line 3: the source is empty"),
    "no target": ("a.tsv", ["a\t "], "a.tsv, line 1: the target is empty"),
    "no JSON": ("a.jsonl", ['{"source": "a"'], "a.jsonl, line 1: malformed JSON"),
    "no object": ("a.jsonl", ["[1]"], r"a.jsonl, line 1: not a JSON object: '\[1\]'"),
    "no field": ("a.jsonl", ['{"source": "a"}'], "a.jsonl, line 1: no 'target'; there are: source"),
    "no text": ("a.jsonl", ['{"source": 3, "target": "b"}'], "a.jsonl, line 1: the source is not a text but 3"),
    "no texts": ("a.jsonl", ['{"source": "a", "target": [3]}'], "line 1: the target is neither a text nor a list"),
    "no id": ("a.jsonl", ['{"source": "a", "target": "b", "id": []}'], r"line 1: the id is .* but \[\]"),
    "one id": (
        "a.jsonl",
        ['{"source": "a", "target": "b", "id": 2}', '{"source": "a", "target": "b"}'],
        "a.jsonl, line 2: there is an earlier pair with the id 2",
    ),
    "nothing": ("a.tsv", ["", ""], "split 'train' holds no sentences"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_what_is_malformed_is_named_with_its_line(tmp_path, case):
    name, lines, message = MALFORMED[case]
    with pytest.raises(ValueError, match=message):
        pairs_of(write(tmp_path / name, *lines))


def test_files_that_do_not_belong_together(tmp_path):
    left = write(tmp_path / "a.de", "a", "b")
    with pytest.raises(ValueError, match=r"a\.de has 2 lines and .*a\.en 3"):
        pairs_of([left, write(tmp_path / "a.en", "1", "2", "3")])
    with pytest.raises(ValueError, match=r"b\.en, line 2: the target is empty"):
        pairs_of([left, write(tmp_path / "b.en", "1", "")])
    with pytest.raises(ValueError, match=r"a\.de, line 1: the source is empty"):
        pairs_of([write(tmp_path / "a.de", "", "b"), write(tmp_path / "a.en", "1", "2")])
    with pytest.raises(ValueError, match="split 'train': one file or two, sources and targets, not 1"):
        pairs_of([left])


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "a.tsv").write_bytes(b"a\tb\n\xff\xfe\t\n")
    with pytest.raises(ValueError, match=r"a\.tsv: not UTF-8 text .* at byte 4"):
        pairs_of(str(tmp_path / "a.tsv"))
    with pytest.raises(FileNotFoundError, match="gone"):
        pairs_of(str(tmp_path / "gone.tsv"))


def test_splits_go_by_any_of_their_names(tmp_path):
    reader = ParallelText({"train": write(tmp_path / "a.tsv", "a\tb"), "valid": write(tmp_path / "b.tsv", "c\td")})
    assert reader.splits == ("train", "valid")
    assert reader.read("dev") == reader.read("valid") == [TextPair(1, "c", ("d",))]
    with pytest.raises(ValueError, match="no split 'test'; there are: train, valid"):
        reader.read("test")


# ------------------------------------------------------------------------------------------ batches


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


def test_validation_gives_each_pair_once_in_order_and_training_needs_targets():
    bare = TextPair(9, "ein Hund")
    data = make_data(some_pairs(bare), some_pairs(bare), eval_batch_size=2)
    assert [len(batch.items) for batch in data.val_dataloader()] == [2, 2, 1]
    assert {item.key for batch in data.val_dataloader() for item in batch.items} == {0, 1, 2, 3, 9}
    assert {item.key for batch in data.train_dataloader() for item in batch.items} == {0, 1, 2, 3}
    with pytest.raises(ValueError, match="nothing in the split 'train' has a caption"):
        _ = make_data([bare], [bare]).tokenizer


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_sentence_without_words_is_one_readable_error(num_workers):
    data = make_data(some_pairs(), some_pairs(TextPair("line 7", "?!", ("what",))), num_workers=num_workers)
    with pytest.raises(LoadError, match=r"^line 7: '\?!': there are no words to read$"):
        list(data.val_dataloader())


def test_sentences_are_the_same_in_every_epoch():
    source = Sentences(TextTransform(WordLevel(1).fit(["ein hund"])))
    pair = TextPair(0, "ein hund")
    assert source.load(pair, 0, 0).tolist() == source.load(pair, 1, 5).tolist()
