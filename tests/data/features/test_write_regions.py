"""Writing files of regions."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from region_cases import DIM, assert_same, random_regions
from safetensors import safe_open

from captioner.data.features.regions import RegionError, RegionFile, Regions
from captioner.data.features.write_regions import RegionWriter, write_regions


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_what_is_written_is_read(tmp_path, images, dtype):
    write_regions(tmp_path / "r.safetensors", images, {"a": 1}, dtype)
    file = RegionFile(tmp_path / "r.safetensors")
    assert (file.feature_dim, file.made_with, list(file.places)) == (DIM, {"a": 1}, list(images))
    for key in reversed(images):
        assert_same(file.read(key), images[key], getattr(torch, dtype))
    with pytest.raises(KeyError):
        file.read("other.jpg")


def test_what_is_known_of_the_photos_is_kept(tmp_path, images):
    """Also from one shard to the next; and a file need not know it."""
    known = {key: regions._replace(photo=f"{key} hashed") for key, regions in images.items()}
    write_regions(tmp_path / "r" / "a.safetensors", known)
    with RegionWriter(tmp_path / "r") as writer:
        writer.add("x", random_regions(2))
    file = RegionFile(tmp_path / "r")
    assert file.photo("3.jpg") == ("3.jpg hashed", (63, 40))
    assert file.read("3.jpg").photo == "3.jpg hashed"
    assert file.photo("x") == (None, (60, 40))


def test_the_layout_is_as_documented(tmp_path, images):
    write_regions(tmp_path / "r.safetensors", images)
    with safe_open(tmp_path / "r.safetensors", framework="np") as file:
        meta = json.loads(file.metadata()["captioner_regions"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    num_regions = sum(len(regions.boxes) for regions in images.values())
    assert len(meta.pop("rows")) == len(images)
    assert isinstance(meta.pop("checksum"), int)
    assert meta == {"format": 1, "keys": list(images), "made_with": None, "photos": [None] * len(images)}
    assert {name: (tensor.shape, tensor.dtype.name) for name, tensor in tensors.items()} == {
        "features": ((num_regions, DIM), "float16"),
        "boxes": ((num_regions, 4), "float32"),
        "scores": ((num_regions,), "float32"),
        "starts": ((len(images) + 1,), "int64"),
        "sizes": ((len(images), 2), "int32"),
    }
    start, end = tensors["starts"][3:5]
    assert np.array_equal(tensors["boxes"][start:end], images["3.jpg"].boxes.numpy())
    assert tensors["sizes"][3].tolist() == [63, 40]


@pytest.mark.parametrize(
    ("regions", "message"),
    [
        (random_regions(1)._replace(boxes=torch.zeros(3, 4)), r"'x' has features, boxes and scores of"),
        (Regions(torch.zeros(0, DIM), torch.zeros(0, 4), torch.zeros(0), (1, 1)), "at least one region"),
        (random_regions(1, dim=6), r"not \(R, 5\)"),
        (random_regions(1)._replace(features=torch.full((2, DIM), 1e5)), "float16 cannot hold: try float32"),
        (random_regions(1)._replace(features=torch.full((2, DIM), torch.nan)), "not finite numbers"),
    ],
)
def test_regions_that_cannot_be_written(tmp_path, regions, message):
    with pytest.raises(RegionError, match=message):
        write_regions(tmp_path / "r.safetensors", {"a": random_regions(2), "x": regions})
    with RegionWriter(tmp_path / "r") as writer:
        writer.add("a", random_regions(2))
        with pytest.raises(RegionError, match=message):
            writer.add("x", regions)
    assert list(RegionFile(tmp_path / "r").places) == ["a"]
    assert not (tmp_path / "r.safetensors").exists()
