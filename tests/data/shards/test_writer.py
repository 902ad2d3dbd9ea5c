"""Packing a data set into shards."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from captioner.data import Shards, find_reader
from captioner.data.shards import ShardError, find_shards, write_shards, writer
from captioner.files import LockedError, held
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


def test_what_could_not_be_read_again_is_left_out(photos, tmp_path):
    """Not packed with another id or without its captions; an empty file is named, too."""
    good, *rest = photos.read("dev")
    path = rest[0].path
    bad = [CaptionedImage(image_id, path, captions) for image_id, captions in ((1.5, ()), ("", ()), (1, ("a \ud83d",)))]
    (tmp_path / "empty.jpg").touch()
    items = [*bad, good, CaptionedImage("empty", tmp_path / "empty.jpg")]
    _, problems = write_shards(items, tmp_path / "new", "all")
    assert [problem.name for problem in problems] == [str(path)] * 3 + [f"{tmp_path}/new/all-000000.tar/000000001.jpg"]
    assert [problem.reason.partition(";")[0] for problem in problems] == [
        "image id 1.5",
        "image id ''",
        "the captions[0] 'a \\ud83d' holds half a character, '\\ud83d': it was cut in the middle of an emoji, say",
        "left out: is empty",
    ]
    (item,) = Shards({"all": f"{tmp_path}/new/*.tar"}).read("all")
    assert (item.image_id, item.captions) == (good.image_id, good.captions)


def test_webdataset_reads_what_is_packed(photos, packed):
    webdataset = pytest.importorskip("webdataset")
    urls = find_shards(f"{packed}/train-*.tar")
    samples = list(webdataset.WebDataset(urls, shardshuffle=False))
    items = photos.read("train")
    assert [sample["__key__"] for sample in samples] == [f"{number:09d}" for number in range(len(items))]
    for sample, item in zip(samples, items, strict=True):
        assert sample[item.path.suffix[1:]] == item.path.read_bytes()
        assert json.loads(sample["json"])["captions"] == list(item.captions)


class Killed(BaseException):
    """Stands for the end of a process."""


def stop_packing(items, folder, name, count, monkeypatch):
    """Pack, and be killed after so many images."""
    added = []

    class Writer(writer._Writer):
        def add(self, item):
            if len(added) == count:
                raise Killed
            added.append(item)
            super().add(item)

    with monkeypatch.context() as patch:
        patch.setattr(writer, "_Writer", Writer)
        with pytest.raises(Killed):
            write_shards(items, folder, name, max_bytes=8000)


@pytest.mark.parametrize("count", [0, 25])
def test_what_a_killed_process_packed_is_no_data_set_and_is_packed_anew(photos, packed, tmp_path, monkeypatch, count):
    items = photos.read("train")
    stop_packing(items, tmp_path, "train", count, monkeypatch)
    assert (tmp_path / "train-000001.tar").exists() == (count > 0)
    with pytest.raises(ShardError, match=rf"{tmp_path}/train-\*.tar: not all shards of this split are there: .*again"):
        find_reader(tmp_path)
    if count:
        for read in (
            lambda: Shards({"train": f"{tmp_path}/train-*.tar"}).read("train"),
            lambda: find_shards(f"{tmp_path}/*"),
        ):
            with pytest.raises(ShardError, match="not all shards of this split"):
                read()
    shards, _ = write_shards(items, tmp_path, "train", max_bytes=8000)
    assert sorted(os.listdir(tmp_path)) == sorted(path.name + end for path in shards for end in ("", ".jsonl"))
    assert all(path.read_bytes() == (packed / path.name).read_bytes() for path in tmp_path.iterdir())
    with pytest.raises(ValueError, match="is there already"):
        write_shards(items, tmp_path, "train")


def test_other_splits_are_left_alone(photos, tmp_path, monkeypatch):
    write_shards(photos.read("dev"), tmp_path, "train-extra", max_bytes=8000)
    before = set(os.listdir(tmp_path))
    stop_packing(photos.read("train"), tmp_path, "train", 25, monkeypatch)
    write_shards(photos.read("dev"), tmp_path, "train", max_bytes=8000)
    assert before < set(os.listdir(tmp_path))
    assert len(Shards({"all": f"{tmp_path}/train-extra-*.tar"}).read("all")) == len(photos.read("dev"))


def test_one_process_packs_a_split(photos, tmp_path):
    with held(tmp_path / "train"), pytest.raises(LockedError, match="another process is writing to it"):
        write_shards(photos.read("train"), tmp_path, "train")


def test_a_folder_that_vanishes_between_shards_is_an_error(photos, tmp_path, monkeypatch):
    """No folder of the last shards alone comes to be."""
    folder = tmp_path / "out"
    original = writer.index_shard

    def index_and_vanish(url):
        found = original(url)
        if url.endswith("-000002.tar"):
            shutil.rmtree(folder)
        return found

    monkeypatch.setattr(writer, "index_shard", index_and_vanish)
    with pytest.raises(FileNotFoundError, match="the folder was removed"):
        write_shards(photos.read("train"), folder, "train", max_bytes=8000)
    assert not list(folder.glob("*.tar"))


def test_a_photo_is_packed_whatever_its_suffix(photos, tmp_path):
    item = photos.read("dev")[0]
    shutil.copy(item.path, tmp_path / "photo")
    (tmp_path / "photo.jxl").write_bytes(b"\0\0\0\x0cJXL \r\n\x87\n")
    items = [CaptionedImage(name, tmp_path / name, ("a dog",)) for name in ("photo", "photo.jxl")]
    _, problems = write_shards(items, tmp_path / "new", "all")
    assert [problem.reason[:18] for problem in problems] == ["is a JPEG XL image"]
    (read,) = Shards({"all": f"{tmp_path}/new/*.tar"}).read("all")
    assert (read.image_id, read.captions, read.path.read_bytes()) == ("photo", ("a dog",), item.path.read_bytes())
