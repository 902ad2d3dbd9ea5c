"""Fixtures of this folder."""

from __future__ import annotations

import json

import fsspec
import pytest
from shard_cases import NUM_IMAGES

from captioner.data import CaptionFolder
from captioner.data.shards import write_shards


@pytest.fixture(scope="module")
def photos(tmp_path_factory, draw):
    """A data set of photos with captions, some of them not ASCII."""
    root = tmp_path_factory.mktemp("photos")
    lines = []
    for number in range(NUM_IMAGES):
        name = f"photo {number} ü猫.jpg" if number % 2 else f"photo.{number}.png"
        draw(number).save(root / name)
        captions = [f"ein Füße {'sehr ' * (number % 7)}{word}" for word in ("rot", "猫")]
        lines.append(json.dumps({"image": name, "captions": captions, "split": "dev" if number >= 34 else "train"}))
    (root / "captions.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return CaptionFolder(str(root))


@pytest.fixture(scope="module")
def packed(photos, tmp_path_factory):
    """The same data set in shards."""
    folder = tmp_path_factory.mktemp("shards")
    for split in ("train", "dev"):
        shards, problems = write_shards(photos.read(split), folder, split, max_bytes=8000)
        assert not problems
        assert (len(shards) > 5) == (split == "train")
    return folder


@pytest.fixture
def remote(packed):
    """The same shards in a remote place, and how often something was read there."""
    system = fsspec.filesystem("memory")
    system.put(str(packed), "/bucket", recursive=True)
    yield "memory://bucket"
    system.rm("/bucket", recursive=True)
