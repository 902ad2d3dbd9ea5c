"""Parallel text: files of all forms, and what is malformed in them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from text_cases import PAIRS

from captioner.data.readers import ParallelText
from captioner.types import TextPair


def write(path: Path, *lines: str) -> str:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return str(path)


def pairs_of(files: str | list[str]) -> list[tuple]:
    return [(item.key, item.text, item.captions) for item in ParallelText({"train": files}).read("train")]


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
    "no id": (
        "a.jsonl",
        ['{"source": "a", "target": "b", "id": []}'],
        r"line 1: pair id \[\]; a whole number or a text is expected",
    ),
    "one id": (
        "a.jsonl",
        ['{"source": "a", "target": "b", "id": 2}', '{"source": "a", "target": "b"}'],
        "a.jsonl, line 2: a second pair with the id 2; the first: .*a.jsonl, line 1",
    ),
    "an id as text": (
        "a.jsonl",
        ['{"source": "a", "target": "b", "id": "2"}', '{"source": "a", "target": "b"}'],
        "a.jsonl, line 2: a second pair with the id 2, which counts as '2'; the first: .*a.jsonl, line 1",
    ),
    "half a character": (
        "a.jsonl",
        ['{"source": "a \\ud83d", "target": "b"}'],
        r"a.jsonl, line 1: the source 'a \\ud83d' holds half a character",
    ),
    "a key twice": (
        "a.jsonl",
        ['{"source": "a", "source": "b"}'],
        "line 1: malformed JSON: the key 'source' comes twice",
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
