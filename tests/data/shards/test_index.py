"""An index is true to its shard."""

from __future__ import annotations

import json

import pytest
from shard_cases import jpeg, pack

from captioner.data import Shards, find_reader
from captioner.data.shards import ShardError, index_shard


def test_shards_of_others(tmp_path, draw):
    files = [
        ("a/001.mask.png", b"a mask"),
        ("a/001.jpg", jpeg(draw, 1)),
        ("a/001.txt", "ein Hund\n\n zwei Füße ".encode()),
        ("a/002.JPG", jpeg(draw, 2)),
        ("a/002.json", json.dumps({"caption": " a cat ", "url": "https://x"}).encode()),
        ("a/002.txt", b"not this"),
        ("b/001.png", jpeg(draw, 3)),
        ("b/001.json", json.dumps({"image_id": 17, "captions": ["x", "", "y"]}).encode()),
        ("b/003.cls", b"5"),
        ("b/004.jpg", jpeg(draw, 4)),
        ("b/004.json", b"{broken"),
        ("b/004.txt", b"\xff"),
        ("b/005.jpg", jpeg(draw, 5)),
        ("b/005.webp", jpeg(draw, 6)),
    ]
    shard = pack(tmp_path / "00000.tar", files)
    num_images, problems = index_shard(shard)
    assert num_images == 5
    assert [problem.name for problem in problems] == [
        f"{shard}/b/004.json",
        f"{shard}/b/004.txt",
        f"{shard}/b/005.webp",
    ]
    assert all(problem.reason.startswith("left out") for problem in problems)
    items = find_reader(tmp_path).read("all")
    assert [(item.image_id, item.captions) for item in items] == [
        ("00000.tar/a/001.jpg", ("ein Hund", "zwei Füße")),
        ("00000.tar/a/002.JPG", ("a cat",)),
        (17, ("x", "y")),
        ("00000.tar/b/004.jpg", ()),
        ("00000.tar/b/005.jpg", ()),
    ]
    contents = dict(files)
    assert all(item.path.read_bytes() == contents[item.path.member] for item in items)


def test_two_of_one_name(tmp_path, draw):
    shard = pack(tmp_path / "x.tar", [("1.jpg", jpeg(draw, 1)), ("1.JPG", jpeg(draw, 2))])
    with pytest.raises(ShardError, match=r"x.tar/1.JPG: the sample '1' has two files .jpg"):
        index_shard(shard)
    for name in ("x", "y"):
        notes = json.dumps({"image_id": 5}).encode()
        index_shard(pack(tmp_path / f"{name}.tar", [("1.jpg", jpeg(draw)), ("1.json", notes)]))
    with pytest.raises(ShardError, match="are both called 5"):
        Shards({"all": f"{tmp_path}/?.tar"}).read("all")


def test_a_stale_or_damaged_index_is_an_error(packed, tmp_path):
    reader = Shards({"dev": f"{tmp_path}/dev-*.tar"})
    for path in packed.glob("dev-*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    shard, index = tmp_path / "dev-000000.tar", tmp_path / "dev-000000.tar.jsonl"
    lines = index.read_text().splitlines(keepends=True)
    with open(shard, "ab") as file:
        file.write(bytes(512))
    with pytest.raises(ShardError, match=r"dev-000000.tar: has [\d,]+ bytes, and had [\d,]+ when it was indexed"):
        reader.read("dev")
    assert reader.read("dev", require_images=False)
    index_shard(str(shard))
    assert reader.read("dev")
    no_id = json.dumps({**json.loads(lines[-1]), "image_id": [1]})
    for text in ("".join(lines[:-1]), "".join(lines[:-1]) + no_id, lines[0] + "{", "[]\n", "", "{}\n"):
        index.write_text(text)
        with pytest.raises(ShardError, match=r"dev-000000.tar.jsonl: damaged"):
            reader.read("dev")
    index.unlink()
    with pytest.raises(FileNotFoundError, match=r"no index; this makes it: captioner shards '.*dev-000000.tar'"):
        reader.read("dev")
    shard.write_bytes(shard.read_bytes()[:700])
    with pytest.raises(ShardError, match="dev-000000.tar: damaged or cut short"):
        index_shard(str(shard))
    assert not index.exists()
