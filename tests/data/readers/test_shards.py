"""Data sets in shards, here and remote."""

from __future__ import annotations

import json
import tarfile

import fsspec
import pytest
from shard_cases import jpeg, pack

from captioner.data import Shards, find_images, find_reader, stream_shard
from captioner.data.shards import ShardError, index_shard
from captioner.data.shards.storage import COPY_SUFFIX


def test_a_data_set_comes_back_from_its_shards(photos, packed):
    reader = find_reader(packed)
    assert isinstance(reader, Shards)
    assert reader.splits == ("dev", "train")
    for split in reader.splits:
        before, after = photos.read(split), reader.read(split)
        assert [(item.image_id, item.captions) for item in after] == [(item.image_id, item.captions) for item in before]
        assert [item.path.read_bytes() for item in after] == [item.path.read_bytes() for item in before]
    with tarfile.open(packed / "dev-000000.tar") as archive:
        notes = json.load(archive.extractfile("000000001.json"))
    item = photos.read("dev")[1]
    assert notes == {"image_id": item.image_id, "captions": list(item.captions), "file_name": item.path.name}


def remote_reader(remote, packed, copies=None, copies_gb=1.0):
    index = {"train": str(packed), "dev": remote}  # indices may lie here or there
    return Shards({split: f"{remote}/{split}-*.tar" for split in index}, index, copies, copies_gb)


@pytest.mark.parametrize("copied", [False, True])
def test_remote_shards(remote, packed, photos, tmp_path, copied):
    reader = remote_reader(remote, packed, str(tmp_path / "copies") if copied else None)
    for split in ("train", "dev"):
        before, after = photos.read(split), reader.read(split)
        assert [item.path.read_bytes() for item in after] == [item.path.read_bytes() for item in before]
    assert len(list(tmp_path.glob(f"copies/*{COPY_SUFFIX}"))) == (len(list(packed.glob("*.tar"))) if copied else 0)
    assert [image.read_bytes() for image in stream_shard(f"{remote}/dev-000000.tar")][0] == before[0].path.read_bytes()
    fsspec.filesystem("memory").pipe("/bucket/dev-000000.tar", b"other")
    with pytest.raises(ShardError, match=r"dev-000000.tar: has 5 bytes"):
        reader.read("dev")


@pytest.mark.parametrize("ids", [(5, 5), (5, "5"), ("a", "a"), (1.0, 1)])
def test_an_id_comes_once(tmp_path, draw, ids):
    for name, image_id in zip("xy", ids, strict=True):
        notes = json.dumps({"image_id": image_id}).encode()
        index_shard(pack(tmp_path / f"{name}.tar", [("1.jpg", jpeg(draw)), ("1.json", notes)]))
    with pytest.raises(ValueError, match=r"y\.tar/1\.jpg: a second image with the id .*; the first: .*x\.tar/1\.jpg"):
        Shards({"all": f"{tmp_path}/?.tar"}).read("all")


def test_images_are_found_beside_shards(packed):
    found, problems = find_images([str(packed)])
    assert not found
    assert [problem.reason for problem in problems] == ["no image in this folder"]
