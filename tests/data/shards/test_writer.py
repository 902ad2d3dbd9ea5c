"""Packing a data set into shards."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from captioner.data import Shards
from captioner.data.shards import find_shards, write_shards
from captioner.types import CaptionedImage


def test_packing_is_exact_and_again_the_same(photos, packed, tmp_path):
    shards, _ = write_shards(photos.read("train"), tmp_path, "train", max_bytes=8000)
    assert sorted(os.listdir(tmp_path)) == sorted(path.name + end for path in shards for end in ("", ".jsonl"))
    for shard in shards:
        assert shard.read_bytes() == (packed / shard.name).read_bytes()
        assert Path(f"{shard}.jsonl").read_bytes() == (packed / f"{shard.name}.jsonl").read_bytes()
    with pytest.raises(ValueError, match="train-000000.tar is there already"):
        write_shards(photos.read("train"), tmp_path, "train")


def test_an_image_that_cannot_be_packed_is_left_out(photos, tmp_path):
    good = photos.read("dev")
    missing = CaptionedImage("gone", tmp_path / "gone.jpg")
    odd = CaptionedImage("odd", good[0].path.with_suffix(".txt"))
    _, problems = write_shards([good[0], missing, odd, good[1]], tmp_path / "new", "all")
    assert [problem.name for problem in problems] == [str(missing.path), str(odd.path)]
    items = Shards({"all": f"{tmp_path}/new/*.tar"}).read("all")
    assert [item.image_id for item in items] == [good[0].image_id, good[1].image_id]


def test_webdataset_reads_what_is_packed(photos, packed):
    webdataset = pytest.importorskip("webdataset")
    urls = find_shards(f"{packed}/train-*.tar")
    samples = list(webdataset.WebDataset(urls, shardshuffle=False))
    items = photos.read("train")
    assert [sample["__key__"] for sample in samples] == [f"{number:09d}" for number in range(len(items))]
    for sample, item in zip(samples, items, strict=True):
        assert sample[item.path.suffix[1:]] == item.path.read_bytes()
        assert json.loads(sample["json"])["captions"] == list(item.captions)
