"""A split that is being packed is marked, and what a run of several splits has finished is known."""

from __future__ import annotations

import pytest

from captioner.data.shards.marks import ShardError, mark, mark_of, require_finished, shards_of, to_pack


@pytest.fixture
def folder(tmp_path):
    for name in ("train-000000.tar", "train-000001.tar", "train-extra-000000.tar", "train-x.tar", "7.tar"):
        (tmp_path / name).touch()
    return tmp_path


def test_shards_of_a_split(folder):
    assert [path.name for path in shards_of(folder, "train")] == ["train-000000.tar", "train-000001.tar"]
    assert [path.name for path in shards_of(folder, "train-extra")] == ["train-extra-000000.tar"]
    assert shards_of(folder / "nothing", "train") == []


def test_all_splits_are_marked_before_the_first_is_packed(tmp_path):
    assert to_pack(tmp_path / "new", ["train", "dev"]) == ["train", "dev"]
    assert all(mark_of(tmp_path / "new", split).exists() for split in ("train", "dev"))


def test_what_a_stopped_run_had_finished_is_not_packed_again(folder):
    to_pack(folder, ["dev", "test"])
    with pytest.raises(ValueError, match="train-000000.tar is there already"):  # from before
        to_pack(folder, ["train", "dev", "test"])
    for split in ("dev", "test"):
        mark_of(folder, split).unlink()
    mark(folder, "dev", ["train", "dev", "test"])
    assert to_pack(folder, ["train", "dev", "test"]) == ["dev", "test"]
    assert to_pack(folder, ["dev"]) == ["dev"]


def test_shards_that_are_there_already_mark_nothing(folder):
    with pytest.raises(ValueError, match="is there already"):
        to_pack(folder, ["dev", "train"])
    assert not list(folder.glob("*.unfinished"))


def test_a_damaged_mark_is_one(folder):
    for content in (b"", b"{", b"[]", b'{"splits": 5}', b"\xff"):
        mark_of(folder, "train").write_bytes(content)
        assert to_pack(folder, ["train"]) == ["train"]
        with pytest.raises(ValueError, match="is there already"):
            to_pack(folder, ["train", "train-extra"])


def test_shards_of_an_unfinished_split_are_an_error(folder, monkeypatch):
    names = [str(folder / name) for name in ("train-extra-000000.tar", "7.tar", "train-x.tar")]
    mark(folder, "train")
    require_finished([*names, "s3://bucket/train-000000.tar"])
    with pytest.raises(ShardError, match=r"train-\*.tar: not all shards of this split are there"):
        require_finished([*names, str(folder / "train-000001.tar")])
    monkeypatch.chdir(folder)
    with pytest.raises(ShardError, match=r"^train-\*.tar: "):
        require_finished(["train-000001.tar"])
