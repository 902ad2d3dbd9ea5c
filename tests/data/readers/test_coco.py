"""COCO's format."""

from __future__ import annotations

import json

import pytest
from reader_cases import coco_json, touch, write_coco

from captioner.data.readers import CocoCaptions, find_reader
from captioner.types import CaptionedImage


def captions_of(items: list[CaptionedImage]) -> dict[int | str, tuple[str, ...]]:
    return {item.image_id: item.captions for item in items}


def test_coco(tmp_path, capsys):
    reader = find_reader(write_coco(tmp_path))
    assert isinstance(reader, CocoCaptions)
    assert reader.splits == ("train", "val")
    items = reader.read("train")
    assert [item.image_id for item in items] == [9, 4]  # integers, in the file's order
    assert items[0].captions == ("Caption 0 of 9.", "Caption 1 of 9.")
    assert items[0].path == tmp_path / "train2017/000000000009.jpg"
    assert capsys.readouterr() == ("", "")


def test_coco_of_two_years_keeps_their_names(tmp_path):
    write_coco(tmp_path)
    (tmp_path / "annotations/captions_val2014.json").write_text(json.dumps(coco_json([5])))
    touch(tmp_path / "images/val2014/000000000005.jpg")
    reader = find_reader(tmp_path)
    assert reader.splits == ("train2017", "val2014", "val2017")
    assert captions_of(reader.read("val2014")).keys() == {5}


def test_coco_in_small(tmp_path):
    (tmp_path / "captions.json").write_text(json.dumps(coco_json([3, 2])))
    touch(tmp_path / "images/000000000003.jpg", tmp_path / "images/000000000002.jpg")
    reader = find_reader(tmp_path)
    assert reader.splits == ("all",)
    assert captions_of(reader.read("all")).keys() == {3, 2}


def test_coco_test_set_without_captions(tmp_path):
    content = coco_json([3])
    del content["annotations"]
    (tmp_path / "test.json").write_text(json.dumps(content))
    touch(tmp_path / "000000000003.jpg")
    items = CocoCaptions({"test": str(tmp_path / "test.json")}, {"test": str(tmp_path)}).read("test")
    assert captions_of(items) == {3: ()}


@pytest.mark.parametrize(
    "content",
    [
        *["", "{", "[]", "{}", '{"images": 3}', '{"images": [{"file_name": "a.jpg"}]}', '{"images": [{"id": 1}]}'],
        '{"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [{"id": 2, "image_id": 1}]}',
        '{"images": [{"id": 1, "file_name": "a"}], "annotations": [{"id": 2, "image_id": 1, "caption": 5}]}',
    ],
)
def test_coco_malformed(content, tmp_path):
    path = tmp_path / "bad.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"bad\.json"):
        CocoCaptions({"val": str(path)}, {"val": str(tmp_path)}).read("val")


def test_two_images_of_one_id_are_named(tmp_path):
    (tmp_path / "bad.json").write_text(json.dumps(coco_json([3, 4, 3])))
    with pytest.raises(
        ValueError, match=r"bad\.json: images\[2\]: a second image with the id 3; the first: .*images\[0\]"
    ):
        CocoCaptions({"val": str(tmp_path / "bad.json")}, {"val": str(tmp_path)}).read("val")


@pytest.mark.parametrize("name", [3, None, ["a.jpg"], ""])
def test_coco_names_of_files_are_texts(name, tmp_path):
    (tmp_path / "bad.json").write_text(json.dumps({"images": [{"id": 1, "file_name": name}]}))
    with pytest.raises(ValueError, match=r'bad\.json: images\[0\]: "file_name" is .*; the name of a file is expected'):
        CocoCaptions({"val": str(tmp_path / "bad.json")}, {"val": str(tmp_path)}).read("val")


def test_coco_arguments_must_match(tmp_path):
    with pytest.raises(ValueError, match="same splits"):
        CocoCaptions({"train": "a.json"}, {"val": "images"})
