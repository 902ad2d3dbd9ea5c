"""Reading files of regions."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
from region_cases import Eyes, assert_same, build, random_regions
from safetensors import safe_open
from safetensors.torch import save_file

from captioner.data.features.regions import RegionError, RegionFile, names_of
from captioner.data.features.write_regions import RegionWriter, write_regions
from captioner.data.images import ImageTransform
from captioner.types import CaptionedImage, ImageError

TRANSFORM = ImageTransform(32)


def item(key, path="nowhere/photo.jpg") -> CaptionedImage:
    return CaptionedImage(key, Path(path))


def test_shards_are_read_as_one(tmp_path, images):
    with RegionWriter(tmp_path / "r", shard_images=3, dtype="float32") as writer:
        for key, regions in images.items():
            writer.add(key, regions)
    assert len(list((tmp_path / "r").iterdir())) == 4
    file = RegionFile(tmp_path / "r")
    copy = pickle.loads(pickle.dumps(file))
    for key, regions in images.items():
        assert_same(file.read(key), regions)
        assert_same(copy.read(key), regions)
    file.read("0.jpg").features.zero_()
    assert file.read("0.jpg").features.any()


@pytest.mark.parametrize(
    ("stored", "wanted"),
    [
        ("391895", item(391895, "val2014/COCO_val2014_000000391895.jpg")),  # COCO's ids
        ("COCO_val2014_000000391895.jpg", item(391895, "val2014/COCO_val2014_000000391895.jpg")),
        ("000000391895", item(391895, "val2017/000000391895.jpg")),
        ("391895", item("000000391895.jpg", "val2017/000000391895.jpg")),  # a folder of COCO's photos
        ("1000268201_693b08cb0e.jpg", item("1000268201_693b08cb0e.jpg", "x/1000268201_693b08cb0e.jpg")),
        ("1000092795", item("1000092795.jpg", "x/1000092795.jpg")),  # Flickr30k's photos are numbers
        ("dev/00001.png", item("dev/00001.png", "x/dev/00001.png")),
        ("00001.png", item("dev/00001.png", "x/dev/00001.png")),
    ],
)
def test_images_are_found_by_id_or_name(tmp_path, stored, wanted):
    regions = random_regions(7)
    write_regions(tmp_path / "r.safetensors", {"other": random_regions(1), stored: regions}, dtype="float32")
    file = RegionFile(tmp_path / "r.safetensors")
    assert file.check([wanted]) == []
    assert_same(file.load(wanted), regions)


def test_the_key_comes_before_the_name(tmp_path):
    images = {"photo": random_regions(1), "photo.jpg": random_regions(2), "5": random_regions(3)}
    write_regions(tmp_path / "r.safetensors", images)
    file = RegionFile(tmp_path / "r.safetensors")
    assert [file.find(wanted) for wanted in (item(5), item(6), item("photo"))] == ["5", "photo.jpg", "photo"]
    assert names_of(item("photo.jpg")) == ["photo.jpg", "photo"]
    assert names_of(item("a_1234.jpg", "a_1234.jpg")) == ["a_1234.jpg", "a_1234"]  # no number of COCO's


def test_an_image_that_is_not_in_is_named(tmp_path, images):
    write_regions(tmp_path / "r.safetensors", images)
    file = RegionFile(tmp_path / "r.safetensors")
    with pytest.raises(
        ImageError, match=r"x/7\.png: is not in .*r\.safetensors, under none of the names '9', '7\.png'"
    ):
        file.load(item(9, "x/7.png"))
    problems = file.check([item("3.jpg"), item("no.jpg", "x/no.jpg"), item("4.jpg")])
    assert [problem.name for problem in problems] == ["x/no.jpg"]
    assert "captioner regions" in problems[0].reason


def test_nothing_there(tmp_path):
    for path in (tmp_path, tmp_path / "r", tmp_path / "r.safetensors"):
        with pytest.raises(RegionError, match="no file of regions here; `captioner regions"):
            RegionFile(path)


def test_damaged_and_foreign_files(tmp_path, images):
    path = tmp_path / "r.safetensors"
    write_regions(path, images)
    data = path.read_bytes()
    for length in (0, 7, 100, len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(RegionError, match=r"r\.safetensors: damaged, or not a file of regions"):
            RegionFile(path)
    save_file({"w": torch.zeros(2)}, path)
    with pytest.raises(RegionError, match="but not one of regions"):
        RegionFile(path)
    path.write_bytes(data.replace(b'\\"format\\": 1', b'\\"format\\": 9'))
    with pytest.raises(RegionError, match="newer captioner"):
        RegionFile(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors: tensors["starts"].__setitem__(1, 0),  # an image without regions
        lambda tensors: tensors["starts"].__setitem__(0, 1),
        lambda tensors: tensors["starts"].__setitem__(-1, 10**6),
        lambda tensors: tensors["sizes"].__setitem__(2, 0),
        lambda tensors: tensors.update(scores=tensors["scores"][1:].clone()),
        lambda tensors: tensors.update(boxes=tensors["boxes"].double()),
        lambda tensors: tensors.update(features=tensors["features"].double()),
        lambda tensors: tensors.pop("sizes"),
        lambda tensors: tensors.update(starts=tensors["starts"][:-1].clone()),
    ],
)
def test_tensors_that_do_not_fit_together(tmp_path, images, change):
    path = tmp_path / "r.safetensors"
    write_regions(path, images)
    with safe_open(path, framework="pt") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file(tensors, path, metadata)
    RegionFile(path)
    change(tensors)
    save_file(tensors, path, metadata)
    with pytest.raises(RegionError, match="damaged"):
        RegionFile(path)


def rewritten(path: Path, change) -> None:
    """Change a file's metadata and tensors, and leave its checksums as they are."""
    with safe_open(path, framework="pt") as file:
        meta = json.loads(file.metadata()["captioner_regions"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    change(meta, tensors)
    save_file(tensors, path, {"captioner_regions": json.dumps(meta)})


def without_checksums(meta, tensors) -> None:
    """As earlier versions, and others, write them."""
    del meta["rows"], meta["checksum"]


def exchange(meta, tensors) -> None:
    meta["keys"][0], meta["keys"][1] = meta["keys"][1], meta["keys"][0]


META = {
    "exchanged keys": exchange,
    "another detector": lambda meta, tensors: meta.update(made_with={"a": 2}),
    "other checksums": lambda meta, tensors: meta["rows"].__setitem__(0, 1),
    "fewer checksums": lambda meta, tensors: meta["rows"].pop(),
    "another size": lambda meta, tensors: tensors["sizes"].__setitem__((0, 0), 7),
    "no checksum": lambda meta, tensors: meta.pop("checksum"),
    "a key of its own": lambda meta, tensors: (without_checksums(meta, tensors), meta.update(chekcsum=3)),
    "keys that are no text": lambda meta, tensors: (without_checksums(meta, tensors), meta["keys"].__setitem__(0, 3)),
    "no keys": lambda meta, tensors: (without_checksums(meta, tensors), meta.update(keys=None)),
    "made with text": lambda meta, tensors: (without_checksums(meta, tensors), meta.update(made_with="text")),
    "no made_with": lambda meta, tensors: (without_checksums(meta, tensors), meta.pop("made_with")),
    "a format of text": lambda meta, tensors: meta.update(format="one"),
    "starts that are no numbers": lambda meta, tensors: (
        without_checksums(meta, tensors),
        tensors.update(starts=tensors["starts"].double()),
    ),
}


@pytest.mark.parametrize("change", META.values(), ids=META)
def test_whatever_is_changed_in_what_says_whose_rows_they_are(tmp_path, images, change):
    path = tmp_path / "r.safetensors"
    write_regions(path, images, {"a": 1})
    rewritten(path, change)
    with pytest.raises(RegionError, match=r"r\.safetensors: damaged") as caught:
        RegionFile(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("name", ["features", "boxes", "scores"])
def test_a_changed_row_is_noticed_by_file_and_image(tmp_path, images, name, dtype):
    path = tmp_path / "r.safetensors"
    write_regions(path, images, dtype=dtype)
    rewritten(path, lambda meta, tensors: tensors[name][-1].mul_(0.5))
    file, wanted = RegionFile(path), item("9.jpg", "x/9.jpg")
    file.read("8.jpg")
    with pytest.raises(
        RegionError, match=r"r\.safetensors: the image '9\.jpg' has other regions than were written there"
    ):
        file.read("9.jpg")
    with pytest.raises(ImageError, match=r"^x/9\.jpg: cannot be read from its features: .*r\.safetensors"):
        file.load(wanted)


@pytest.mark.parametrize("name", ["features", "boxes"])
def test_numbers_that_are_not_finite_are_refused_in_files_of_others_too(tmp_path, images, name):
    path = tmp_path / "r.safetensors"
    write_regions(path, images)
    rewritten(path, lambda meta, tensors: (without_checksums(meta, tensors), tensors[name][-1].fill_(torch.nan)))
    file = RegionFile(path)
    assert_same(file.read("3.jpg"), images["3.jpg"], torch.float16)
    with pytest.raises(
        RegionError, match=r"r\.safetensors: the image '9\.jpg' has features or boxes that are not finite"
    ):
        file.read("9.jpg")


def test_what_is_cut_off_after_opening_is_an_error_too(tmp_path, images):
    path = tmp_path / "r.safetensors"
    write_regions(path, images)
    file = RegionFile(path)
    path.write_bytes(b"x")
    with pytest.raises(RegionError, match=r"the image '9\.jpg' has no regions there: the file is damaged"):
        file.read("9.jpg")


def test_what_was_made_with_something_that_nobody_knows(tmp_path, pictures):
    write_regions(tmp_path / "r.safetensors", {"0": random_regions(0)}, {"a": 1})
    with pytest.raises(RegionError, match="made with something else: the format: None there, 1 here"):
        RegionFile(tmp_path / "r.safetensors").require_for(Eyes(), TRANSFORM)


def test_files_that_do_not_belong_together(tmp_path, images):
    write_regions(tmp_path / "a.safetensors", images)
    write_regions(tmp_path / "b.safetensors", {"3.jpg": random_regions(1)})
    with pytest.raises(RegionError, match=r"b\.safetensors: the image '3\.jpg' is in .*a\.safetensors too"):
        RegionFile(tmp_path)
    write_regions(tmp_path / "b.safetensors", {"x": random_regions(1, dim=6)})
    with pytest.raises(RegionError, match="have different features"):
        RegionFile(tmp_path)
    write_regions(tmp_path / "b.safetensors", {"x": random_regions(1)}, {"another": "detector"})
    with pytest.raises(RegionError, match="have different features"):
        RegionFile(tmp_path)


def test_features_belong_to_their_detector(tmp_path, pictures):
    build(tmp_path / "r", pictures, Eyes())
    file = RegionFile(tmp_path / "r")
    file.require_for(Eyes(), TRANSFORM)
    with pytest.raises(RegionError, match=r"made with something else: .*the encoder's weights.*PrecomputedRegions"):
        file.require_for(Eyes(2.0), TRANSFORM)
    write_regions(tmp_path / "foreign.safetensors", {"a": random_regions(1)})
    with pytest.raises(RegionError, match="not known what these features were made with.*PrecomputedRegions"):
        RegionFile(tmp_path / "foreign.safetensors").require_for(Eyes(), TRANSFORM)
