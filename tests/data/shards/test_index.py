"""An index is true to its shard."""

from __future__ import annotations

import json

import pytest
from shard_cases import jpeg, pack

from captioner.data import Shards, find_reader
from captioner.data.shards import ShardError, index, index_shard


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


def test_keys_with_dots(tmp_path, draw):
    """A photo with captions of its own is a sample, however its name would be split; the others are as they were."""
    photo = jpeg(draw)
    files = [
        ("photo v1.5.jpg", photo),
        ("photo v1.5.txt", b"five"),
        ("photo v1.6.JPG", photo),
        ("photo v1.6.json", json.dumps({"captions": ["six", "sixth"]}).encode()),
        ("photo v1.7.jpg", photo),
        ("b.c.d/IMG.2020.01.png", photo),
        ("b.c.d/IMG.2020.01.json", json.dumps({"image_id": 20}).encode()),
        ("x.jpg", photo),
        ("x.json", json.dumps({"caption": "whole"}).encode()),
        ("x.2.jpg", photo),
        ("x.2.txt", b"two"),
        ("x.mask.png", photo),
        ("x.mask.json", json.dumps({"colour": "red"}).encode()),
        ("y.image.jpg", photo),
        ("y.txt", b"of the key"),
        ("z.1.0.jpg", photo),
    ]
    shard = pack(tmp_path / "00.tar", files)
    num_images, problems = index_shard(shard)
    assert [problem.name for problem in problems] == [f"{shard}/photo v1.7.jpg"]
    items = find_reader(tmp_path).read("all")
    assert [(item.path.member, item.captions) for item in items] == [
        ("photo v1.5.jpg", ("five",)),
        ("photo v1.6.JPG", ("six", "sixth")),
        ("b.c.d/IMG.2020.01.png", ()),
        ("x.jpg", ("whole",)),
        ("x.2.jpg", ("two",)),
        ("y.image.jpg", ("of the key",)),
        ("z.1.0.jpg", ()),
    ]
    assert (num_images, items[2].image_id) == (7, 20)


def test_images_are_known_by_their_first_bytes(tmp_path, draw):
    unread = b"\0\0\0\x0cJXL \r\n\x87\n"
    files = [("a", jpeg(draw)), ("a.txt", b"a dog"), ("b.jxl", unread), ("b.txt", b"a cat"), ("c.mp4", b"ftyp")]
    shard = pack(tmp_path / "00.tar", files)
    _, problems = index_shard(shard)
    assert [item.captions for item in find_reader(tmp_path).read("all")] == [("a dog",)]
    assert [(problem.name, problem.reason[:30]) for problem in problems] == [
        (f"{shard}/b.jxl", "left out: is a JPEG XL image, ")
    ]


def test_texts_are_bounded(tmp_path, draw, monkeypatch):
    files = [
        (f"{name}.{ending}", content) for name in "abc" for ending, content in (("jpg", jpeg(draw)), ("txt", b"x" * 50))
    ]
    shard = pack(tmp_path / "00.tar", [*files, ("a.json", b" " * 200)])
    monkeypatch.setattr(index, "MAX_TEXT", 100)
    num_images, problems = index_shard(shard)
    assert (num_images, [str(problem) for problem in problems]) == (
        3,
        [f"{shard}/a.json: left out: has 200 bytes, and captions at most 100"],
    )
    monkeypatch.setattr(index, "MAX_CAPTIONS", 120)
    with pytest.raises(
        ShardError, match=r"00\.tar/c\.txt: with these, the shard's captions have 150 letters, more than"
    ):
        index_shard(shard)


def test_an_index_holds_values_of_their_types(packed, tmp_path):
    for path in packed.glob("dev-000000*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    place = tmp_path / "dev-000000.tar.jsonl"
    whole = place.read_text().splitlines(keepends=True)
    head, line = json.loads(whole[0]), json.loads(whole[1])
    heads = [{"format": value} for value in ("1", None, [], 1.5, True)]
    heads += [{"num_bytes": value} for value in ("9", None, -1, 0.5)] + [
        {"num_images": value} for value in ("1", None, [])
    ]
    lines = [{"offset": value} for value in ("9", None, -512, 1.5, True)] + [{"size": "9"}, {"image": 5}]
    lines += [{"captions": value} for value in ("a dog", None, [5], [["a"]], {"a": "b"})] + [{"more": 1}]
    bad = [json.dumps({**head, **change}) + "\n" + "".join(whole[1:]) for change in heads]
    bad += [whole[0] + json.dumps({**line, **change}) + "\n" + "".join(whole[2:]) for change in lines]
    bad += ["[" * 100_000, "\xff\xfe", "null\n", whole[0] + "5\n" * (len(whole) - 1)]
    for text in bad:
        place.write_text(text)
        with pytest.raises(ShardError, match=r"dev-000000.tar.jsonl: damaged .*make it again"):
            Shards({"dev": f"{tmp_path}/dev-*.tar"}).read("dev")
    place.write_text(json.dumps({**head, "format": 2}) + "\n" + "".join(whole[1:]))
    with pytest.raises(ShardError, match="made by a newer captioner"):
        Shards({"dev": f"{tmp_path}/dev-*.tar"}).read("dev")
