"""COCO's caption files: what is written is read back, and what is wrong is said."""

from __future__ import annotations

import json

import pytest

from captioner.metrics import read_references, read_results, write_results


def write(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def test_references(tmp_path):
    path = write(
        tmp_path / "captions.json",
        {
            "images": [{"id": 5}, {"id": 2}, {"id": 8}],
            "annotations": [
                {"image_id": 2, "caption": "two", "id": 1},
                {"image_id": 5, "caption": "five", "id": 2},
                {"image_id": 2, "caption": "zwei, später", "id": 3},
            ],
        },
    )
    references = read_references(path)
    assert references == {5: ["five"], 2: ["two", "zwei, später"]}
    assert list(references) == [5, 2]  # the order of the images


def test_references_without_a_character_are_none(tmp_path):
    notes = [{"image_id": number, "caption": text} for number, text in ((1, " a dog "), (1, " "), (2, ""))]
    assert read_references(write(tmp_path / "captions.json", {"annotations": notes})) == {1: ["a dog"]}


def test_ids_are_read_alike(tmp_path):
    path = write(tmp_path / "results.json", [{"image_id": 1.0, "caption": "a"}])
    references = write(
        tmp_path / "captions.json", {"images": [{"id": 1}], "annotations": [{"image_id": 1.0, "caption": "b"}]}
    )
    assert (read_results(path), read_references(references)) == ({1: "a"}, {1: ["b"]})
    assert all(type(image_id) is int for image_id in [*read_results(path), *read_references(references)])


def test_results_round_trip(tmp_path):
    captions = {42: 'a "dog"', 7: "café \u2028 日本", "photo.jpg": "", "\udcff.jpg": "a name in Latin-1"}
    path = tmp_path / "results.json"
    write_results(path, captions)
    assert read_results(path) == captions
    raw = path.read_bytes()
    assert raw.startswith(b'[{"image_id":42,"caption":"a \\"dog\\""},')
    assert "café".encode() in raw


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("not json", "malformed JSON"),
        ("", "malformed JSON"),
        ({"annotations": []}, "a list .* is expected"),
        ([{"caption": "a"}], 'entry 0: no "image_id"'),
        ([{"image_id": 1, "caption": "a"}, {"image_id": 2}], 'entry 1: no "caption"'),
        ([1], "entry 0"),
        ([{"image_id": 1.5, "caption": "a"}], "image id 1.5"),
        ([{"image_id": True, "caption": "a"}], "image id True"),
        ([{"image_id": None, "caption": "a"}], "image id None"),
        ([{"image_id": 1, "caption": None}], '"caption" is None'),
        ([{"image_id": 1, "caption": "a"}, {"image_id": 1, "caption": "b"}], "entry 1: a second caption for image 1;"),
        (
            [{"image_id": "1", "caption": "a"}, {"image_id": 1.0, "caption": "b"}],
            "entry 1: a second caption for image 1, which counts as '1'; the first: .*entry 0",
        ),
        ('[{"image_id": NaN, "caption": "a"}]', "malformed JSON: NaN is not a number in JSON"),
        ('[{"image_id": 1, "caption": "a", "caption": "b"}]', "the key 'caption' comes twice in one object"),
        ([{"image_id": 1, "caption": ["a"]}], r"entry 0: \"caption\" is \['a'\]; a text is expected"),
        (
            [{"image_id": 1, "caption": "a"}, {"image_id": 2, "caption": "a \ud83d"}],
            "entry 1: the caption .* half a char",
        ),
        ("[" * 100_000, "malformed JSON"),
    ],
)
def test_bad_results(tmp_path, content, reason):
    path = write(tmp_path / "results.json", content)
    with pytest.raises(ValueError, match=reason) as error:
        read_results(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ([], "not a COCO captions file"),
        ({"images": []}, "not a COCO captions file"),
        ({"annotations": [], "images": 3}, '"images" is not a list'),
        ({"annotations": [], "images": [{"file": "a"}]}, r'images\[0\]: no "id"'),
        ({"annotations": [{"image_id": 1}]}, r'annotations\[0\]: no "caption"'),
        (
            {"images": [{"id": 1}, {"id": 1}], "annotations": []},
            r"images\[1\]: a second image with the id 1; .*images\[0\]",
        ),
        (
            {"images": [{"id": 1}], "annotations": [{"image_id": 2, "caption": "a"}]},
            r"annotations\[0\]: image id 2 is not among the images$",
        ),
    ],
)
def test_bad_references(tmp_path, content, reason):
    path = write(tmp_path / "captions.json", content)
    with pytest.raises(ValueError, match=reason):
        read_references(path)


def test_bytes_that_are_not_utf8(tmp_path):
    path = tmp_path / "results.json"
    path.write_bytes(b'[{"image_id": 1, "caption": "caf\xe9"}]')
    with pytest.raises(ValueError, match="UTF-8"):
        read_results(path)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_results(tmp_path / "none.json")
