"""Patterns of shards."""

from __future__ import annotations

import pytest

from captioner.data.shards import find_shards, is_shard


def test_patterns(tmp_path):
    assert find_shards("s3://b/t-{08..11}.tar") == [f"s3://b/t-{number}.tar" for number in ("08", "09", "10", "11")]
    assert find_shards("{a,b}/{0..1}.tar") == ["a/0.tar", "a/1.tar", "b/0.tar", "b/1.tar"]
    for name in ("x-1.tar", "x-0.tar", "y.tar", "odd{1,2}.tar"):
        (tmp_path / name).touch()
    assert find_shards(f"{tmp_path}/x-*.tar") == [f"{tmp_path}/x-0.tar", f"{tmp_path}/x-1.tar"]
    assert find_shards(f"{tmp_path}/{{x-*,y,x-0}}.tar") == [f"{tmp_path}/{name}.tar" for name in ("x-0", "x-1", "y")]
    assert find_shards(f"{tmp_path}/odd{{1,2}}.tar") == [f"{tmp_path}/odd{{1,2}}.tar"]
    with pytest.raises(FileNotFoundError, match="no shard matches"):
        find_shards(f"{tmp_path}/z-*.tar")
    with pytest.raises(ValueError, match="programs are not run"):
        find_shards("pipe:cat x.tar")
    shards = ["a.tar", "s3://b/{0..2}.TAR", "a.tar.gz", "https://x/a.tar?signature=b.c", "a-?.tar"]
    assert [is_shard(name) for name in (*shards, "a.jpg", "tar", "https://x/a.jpg?of=a.tar")] == [True] * 5 + [
        False
    ] * 3


def test_remote_patterns(remote):
    found = find_shards(f"{remote}/dev-*.tar")
    assert found == [f"memory:///bucket/dev-{number:06d}.tar" for number in range(len(found))]
    assert found
