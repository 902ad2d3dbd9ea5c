"""Files of others are read strictly, and errors name the place."""

from __future__ import annotations

import json

import pytest

from captioner.texts import (
    Ids,
    caption_text,
    item_id,
    numbered_lines,
    parse_json,
    read_coco,
    read_json,
    read_text,
    read_yaml,
)


def test_lines_have_their_numbers_blank_ones_counted(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbffirst\r\n\n  \nsecond")
    assert list(numbered_lines(path)) == [(f"{path}, line 1", "first"), (f"{path}, line 4", "second")]
    assert read_text(path) == "first\r\n\n  \nsecond"


@pytest.mark.parametrize("read", [read_text, read_json, read_yaml, lambda path: read_coco(path, "images")])
@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_other_encodings_are_named(tmp_path, read, encoding):
    path = tmp_path / "a.json"
    path.write_bytes('{"a": "café"}'.encode(encoding))
    with pytest.raises(ValueError, match=r"a\.json: not UTF-8 text .*: save it in UTF-8"):
        read(path)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "Expecting property name"),
        ("", "Expecting value"),
        ("[1] 2", "Extra data"),
        ('{"a": NaN}', "NaN is not a number in JSON"),
        ("[-Infinity]", "-Infinity is not a number in JSON"),
        ('[{"b": {"a": 1, "a": 1}}]', "the key 'a' comes twice in one object"),
        ("[" * 100_000, "recursion"),
        ("1" * 5000, "digits"),
    ],
)
def test_json_that_is_none(tmp_path, text, reason):
    with pytest.raises(ValueError, match=rf"^here: malformed JSON: .*{reason}") as error:
        parse_json(text, "here")
    assert "\n" not in str(error.value)
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=r"a\.json: malformed JSON: "):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize("text", ["a: [1", "a: b: c", "\0", "[" * 5000, "!!python/object:os.system {}"])
def test_yaml_that_is_none(tmp_path, text):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"a\.yaml: not a YAML file: ") as error:
        read_yaml(tmp_path / "a.yaml")
    assert "\n" not in str(error.value)


def test_a_byte_order_mark_is_no_harm(tmp_path):
    (tmp_path / "a").write_bytes('\ufeff{"a": "ü"}'.encode())
    assert read_json(tmp_path / "a") == read_yaml(tmp_path / "a") == {"a": "ü"}


@pytest.mark.parametrize(("value", "expected"), [(1, 1), (1.0, 1), (-3.0, -3), (0, 0), ("a.jpg", "a.jpg"), ("1", "1")])
def test_ids(value, expected):
    found = item_id(value, "here")
    assert (found, type(found)) == (expected, type(expected))


@pytest.mark.parametrize("value", [1.5, float("nan"), float("inf"), 1e300, True, None, [], {}, ""])
def test_what_is_no_id(value):
    with pytest.raises(ValueError, match="^here: image id .*; a whole number or a text is expected"):
        item_id(value, "here")


@pytest.mark.parametrize(("first", "second"), [(1, 1), (1, 1.0), (1, "1"), ("1", 1.0), ("a", "a")])
def test_an_id_is_of_one_entry(first, second):
    ids = Ids()
    ids.add(first, "entry 0")
    ids.add(2, "entry 1")
    with pytest.raises(ValueError, match="^entry 2: a second image with the id .*; the first: entry 0$"):
        ids.add(second, "entry 2")


def test_ids_that_refer():
    ids = Ids("pair")
    ids.add(1, "pair 0")
    assert ids.refer(1.0, "note 0", is_complete=True) == 1
    with pytest.raises(ValueError, match="^note 1: pair id 2 is not among the pairs$"):
        ids.refer(2, "note 1", is_complete=True)
    with pytest.raises(ValueError, match="^note 1: pair id '1' is not among the pairs, and 1 is: write both"):
        ids.refer("1", "note 1", is_complete=True)
    assert ids.refer(2, "note 1", is_complete=False) == ids.refer(2, "note 2", is_complete=True) == 2
    with pytest.raises(ValueError, match="write both as numbers, or both as texts"):
        ids.refer("2", "note 3", is_complete=False)


def test_captions():
    assert caption_text("a 🐕 runs", "here") == "a 🐕 runs"
    for value in (None, 3, ["a"], {"a": 1}):
        with pytest.raises(ValueError, match='^here: "caption" is .*; a text is expected'):
            caption_text(value, "here")
    with pytest.raises(ValueError, match=r"^here: the source 'a \\udc15' holds half a character, '\\udc15'") as error:
        caption_text("a \udc15", "here", "source")
    assert str(error.value).isascii()


def coco(*ids, notes=()):
    return {
        "images": [{"id": value} for value in ids],
        "annotations": [{"image_id": i, "caption": c} for i, c in notes],
    }


def test_coco_s_own_reader_finds_the_same(tmp_path):
    from pycocotools.coco import COCO

    images = [{"id": number, "file_name": f"{number}.jpg"} for number in (7, 3, 9)]
    pairs = [(3, "a cat"), (7, "two dogs"), (3, "a tabby"), (7, "dogs")]
    annotations = [{"id": n, "image_id": image, "caption": text} for n, (image, text) in enumerate(pairs)]
    (tmp_path / "a.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    found, theirs = read_coco(tmp_path / "a.json", "annotations"), COCO(str(tmp_path / "a.json"))
    assert list(found.images) == theirs.getImgIds()
    for image, captions in found.captions.items():
        assert captions == [annotation["caption"] for annotation in theirs.imgToAnns.get(image, [])]


def test_coco(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(coco(5, 2.0, "x", notes=[(2, " two "), (5.0, "five"), (2, "zwei"), ("x", " ")])))
    found = read_coco(path, "images")
    assert found.captions == {5: ["five"], 2: ["two", "zwei"], "x": []}
    assert [(image_id, image["id"]) for image_id, image in found.images.items()] == [(5, 5), (2, 2.0), ("x", "x")]


BAD = {
    "two images": (coco(1, 2, 1), r"images\[2\]: a second image with the id 1; the first: .*a\.json: images\[0\]"),
    "a number and its text": (coco(1, "1"), r"images\[1\]: a second image with the id '1', which counts as 1;"),
    "1.0 and 1": (coco(1.0, 1), r"images\[1\]: a second image with the id 1;"),
    "null": (coco(None), r"images\[0\]: image id None"),
    "1.5": (coco(1.5), r"images\[0\]: image id 1\.5"),
    "an unknown image": (coco(1, notes=[(1, "a"), (2, "b")]), r"annotations\[1\]: image id 2 is not among the images"),
    "an id as text": (coco(1, notes=[("1", "a")]), r"annotations\[0\]: image id '1' is not among the images, and 1 is"),
    "no caption": (coco(1, notes=[(1, None)]), r'annotations\[0\]: "caption" is None'),
    "half a character": (coco(1, notes=[(1, "a \ud83d")]), r"annotations\[0\]: the caption .* holds half a character"),
    "no object": ([], r'an object with a list "images" is expected'),
    "no list": ({"images": {"1": {}}}, '"images" is not a list'),
    "no annotations": ({"images": [], "annotations": "a"}, '"annotations" is not a list'),
    "a text for an image": ({"images": ["a.jpg"]}, r"images\[0\]: no \"id\": 'a\.jpg'"),
}


@pytest.mark.parametrize("case", BAD)
def test_coco_that_is_none(tmp_path, case):
    content, reason = BAD[case]
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=rf"a\.json: .*{reason}"):
        read_coco(tmp_path / "a.json", "images")
