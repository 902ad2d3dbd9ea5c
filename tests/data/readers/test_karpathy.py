"""Karpathy's splits."""

from __future__ import annotations

import json

import pytest
from reader_cases import karpathy_json, write_karpathy

from captioner.data.readers import KarpathySplit, find_reader
from captioner.types import CaptionedImage


def captions_of(items: list[CaptionedImage]) -> dict[int | str, tuple[str, ...]]:
    return {item.image_id: item.captions for item in items}


@pytest.mark.parametrize("coco", [False, True])
def test_karpathy(coco, tmp_path):
    write_karpathy(tmp_path, coco, images="pictures")
    file = tmp_path / ("dataset_coco.json" if coco else "dataset_flickr8k.json")
    reader = KarpathySplit(file, tmp_path / "pictures")
    ids = [100, 101, 104] if coco else ["0.jpg", "1.jpg", "4.jpg"]
    assert captions_of(reader.read("train")) == dict(
        zip(ids, [("Photo 0.",), ("Photo 1.",), ("Photo 4.",)], strict=True)
    )
    assert [item.path.name for item in reader.read("test")] == ["3.jpg"]
    if coco:
        assert reader.read("val")[0].path == tmp_path / "pictures/val2014/2.jpg"


def test_karpathy_without_restval(tmp_path):
    write_karpathy(tmp_path)
    reader = KarpathySplit(tmp_path / "dataset_flickr8k.json", tmp_path / "Flicker8k_Dataset", restval=False)
    assert reader.splits == ("train", "val", "test", "restval")
    assert [item.image_id for item in reader.read("train")] == ["0.jpg", "4.jpg"]
    assert [item.image_id for item in reader.read("restval")] == ["1.jpg"]


@pytest.mark.parametrize("images", [".", "images", "flickr30k-images"])
def test_karpathys_images_are_found(images, tmp_path):
    write_karpathy(tmp_path, images=images)
    assert len(find_reader(tmp_path).read("train")) == 3


def test_karpathys_archive_of_three_files_takes_the_one_with_images(tmp_path):
    write_karpathy(tmp_path)
    (tmp_path / "dataset_coco.json").write_text(json.dumps(karpathy_json(coco=True)))
    reader = find_reader(tmp_path)
    assert isinstance(reader, KarpathySplit)
    assert str(reader.annotations).endswith("dataset_flickr8k.json")


@pytest.mark.parametrize(
    "content",
    [
        *["{", "[]", '{"images": 3}', '{"images": [1]}', '{"images": [{"filename": "a"}]}'],
        '{"images": [{"split": "val", "filename": "a.jpg"}]}',
        '{"images": [{"split": "val", "filename": "a.jpg", "sentences": [{"tokens": []}]}]}',
        '{"images": [{"split": "val", "filename": "a.jpg", "sentences": [{"raw": null}]}]}',
    ],
)
def test_karpathy_malformed(content, tmp_path):
    path = tmp_path / "dataset_bad.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"dataset_bad\.json"):
        KarpathySplit(path, tmp_path).read("val")


def entry(**values):
    return {"filename": "a.jpg", "split": "val", "sentences": [{"raw": "a dog"}]} | values


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([entry(cocoid=1), entry(cocoid=1)], r"images\[1\]: a second image with the id 1; the first: .*images\[0\]"),
        ([entry(cocoid=1), entry(cocoid="1", split="test")], r"images\[1\]: a second image with the id '1', which"),
        ([entry(filepath="a"), entry(filepath="b")], r"images\[1\]: a second image with the id 'a\.jpg'"),
        ([entry(cocoid=None)], r"images\[0\]: image id None; a whole number or a text"),
        ([entry(cocoid=1.5)], r"images\[0\]: image id 1\.5"),
        ([entry(split=["val"])], "'val' holds no images"),
        ([entry(filename=3)], r'images\[0\]: "filename" is 3; the name of a file'),
        ([entry(filepath=["a"])], r'images\[0\]: "filepath" is'),
        ([entry(sentences="a dog")], r'images\[0\]: "sentences" is not a list'),
        (
            [entry(), entry(filename="b.jpg", sentences=[{"raw": "a \ud83d"}])],
            r"images\[1\]: the caption .* half a char",
        ),
    ],
)
def test_karpathys_entries_are_named(entries, message, tmp_path):
    (tmp_path / "dataset_bad.json").write_text(json.dumps({"images": entries}))
    with pytest.raises(ValueError, match=message):
        KarpathySplit(tmp_path / "dataset_bad.json", tmp_path).read("val", require_images=False)


def test_karpathys_images_are_found_without_the_first(tmp_path):
    write_karpathy(tmp_path, images="pictures")
    (tmp_path / "pictures" / "0.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of 3 images are missing, the first: .*pictures/0\.jpg"):
        find_reader(tmp_path).read("train")
