"""Readers give images with captions from each data set's own files, and say what is wrong with them."""

from __future__ import annotations

import pickle

import pytest
from reader_cases import touch, write_coco, write_flickr8k, write_folder, write_karpathy

from captioner.data import readers
from captioner.data.readers import (
    CaptionFolder,
    CocoCaptions,
    Flickr8k,
    KarpathySplit,
    ParallelText,
    Reader,
    Shards,
    find_reader,
)
from captioner.data.readers.base import usual_split
from captioner.types import CaptionedImage


def captions_of(items: list[CaptionedImage]) -> dict[int | str, tuple[str, ...]]:
    return {item.image_id: item.captions for item in items}


WRITERS = {
    "flickr8k": write_flickr8k,
    "coco": write_coco,
    "karpathy": write_karpathy,
    "karpathy coco": lambda root: write_karpathy(root, coco=True, images="images"),
    "csv": lambda root: write_folder(root, "image,caption\na.jpg,one\nb.jpg,two\na.jpg,three\n"),
}


@pytest.fixture(params=WRITERS)
def reader(request, tmp_path) -> Reader:
    """A reader of every kind, as `find_reader` finds it."""
    return find_reader(WRITERS[request.param](tmp_path / "data"))


def test_every_split_can_be_read(reader):
    for split in reader.splits:
        items = reader.read(split)
        assert items
        assert len({item.image_id for item in items}) == len(items)
        for item in items:
            assert item.path.is_file()
            assert item.captions
            assert all(caption == caption.strip() != "" for caption in item.captions)


def test_the_splits_for_learning_and_choosing_share_no_image(reader):
    paths = [item.path for split in ("train", "dev") for item in reader.read(split)]
    assert len(set(paths)) == len(paths)


def test_dev_and_val_are_the_same(reader):
    assert reader.read("dev") == reader.read("val") == reader.read("validation")


def test_an_unknown_split_names_those_there_are(reader):
    with pytest.raises(ValueError, match="no split 'holdout'") as caught:
        reader.read("holdout")
    assert all(split in str(caught.value) for split in reader.splits)


def test_missing_images_are_counted(reader):
    items = reader.read("train")
    for item in items:
        item.path.unlink()
    with pytest.raises(FileNotFoundError, match=f"{len(items)} of {len(items)} images are missing") as caught:
        reader.read("train")
    assert str(items[0].path) in str(caught.value)


NOWHERE = {
    "flickr8k": (Flickr8k("nowhere/data"), "root"),
    "folder": (CaptionFolder("nowhere/data"), "root"),
    "coco": (CocoCaptions({"train": "nowhere/data"}, {"train": "."}), "annotations"),
    "karpathy": (KarpathySplit("nowhere/data", "."), "annotations"),
    "shards": (Shards({"train": "nowhere/data/train-*.tar"}), "shards"),
    "text": (ParallelText({"train": "nowhere/data"}), "files"),
    "two texts": (ParallelText({"train": ["nowhere/data", "nowhere/data"]}), "files"),
}


@pytest.mark.parametrize("case", NOWHERE)
def test_data_that_are_not_there_are_named_with_the_argument(case):
    reader, argument = NOWHERE[case]
    with pytest.raises(FileNotFoundError, match=rf"^nowhere/data: no such .* --data\.reader\.{argument} in training"):
        reader.read("train")


def test_a_folder_of_images_that_is_not_there_is_named(tmp_path):
    write_karpathy(tmp_path)
    (tmp_path / "Flicker8k_Dataset").rename(tmp_path / "elsewhere")
    reader = readers.KarpathySplit(tmp_path / "dataset_flickr8k.json", tmp_path / "Flicker8k_Dataset")
    with pytest.raises(
        FileNotFoundError, match=r"3 of 3 images are missing.*; there is no folder .*Flicker8k_Dataset$"
    ):
        reader.read("train")


def test_the_split_that_is_meant():
    assert usual_split(["test"], "here") == "test"
    assert usual_split(["train", "val", "test"], "here") == "val"
    with pytest.raises(ValueError, match="here: no split 'dev'; there are: train, test"):
        usual_split(["train", "test"], "here")


def test_readers_are_values(reader):
    assert pickle.loads(pickle.dumps(reader)) == reader
    assert type(reader)(**vars(reader)) == reader
    assert eval(repr(reader), vars(readers)) == reader


def test_a_split_without_images_is_an_error(tmp_path):
    write_karpathy(tmp_path)
    path = tmp_path / "dataset_flickr8k.json"
    path.write_text(path.read_text().replace('"val"', '"train"'))
    with pytest.raises(ValueError, match="'val' holds no images"):
        find_reader(tmp_path).read("val")


def test_a_new_reader_is_one_small_class(tmp_path):
    touch(tmp_path / "a.jpg")

    class Mine(Reader):
        @property
        def splits(self) -> tuple[str, ...]:
            return ("validation",)

        def items(self, split: str) -> list[CaptionedImage]:
            return [CaptionedImage("a", tmp_path / "a.jpg", ("one",))]

    assert captions_of(Mine().read("dev")) == {"a": ("one",)}


@pytest.mark.parametrize(("first", "second"), [(1, 1), (1, "1"), ("a", "a"), (1, 1.5), (1, None)])
def test_ids_of_any_reader_are_checked(first, second, tmp_path):
    touch(tmp_path / "a.jpg", tmp_path / "b.jpg")

    class Mine(Reader):
        splits = ("train",)

        def items(self, split: str) -> list[CaptionedImage]:
            return [CaptionedImage(first, tmp_path / "a.jpg"), CaptionedImage(second, tmp_path / "b.jpg")]

    with pytest.raises(ValueError, match=r"b\.jpg: "):
        Mine().read("train")
