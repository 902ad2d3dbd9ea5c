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


@pytest.fixture
def one_index(packed, tmp_path):
    """The index of a shard, where it may be changed."""
    for path in packed.glob("dev-000000*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path / "dev-000000.tar.jsonl"


def read(one_index):
    return Shards({"dev": str(one_index.with_suffix(""))}).read("dev")


def test_a_file_of_notes_that_makes_no_sense_is_named(tmp_path, draw):
    """With its photo alone, and where the photo's name holds dots; the photo is in without it."""
    bad = json.dumps({"image_id": 1.5, "captions": ["a dog"]}).encode()
    for key in ("a", "b v1.5", "c"):
        shard = pack(tmp_path / "0.tar", [(f"{key}.jpg", jpeg(draw)), (f"{key}.json", bad), (f"{key}.txt", b"a cat")])
        num_images, problems = index_shard(shard)
        reason = "left out: image id 1.5; a whole number or a text is expected"
        assert (num_images, [(problem.name, problem.reason) for problem in problems]) == (
            1,
            [(f"{shard}/{key}.json", reason)],
        )
        (item,) = find_reader(tmp_path).read("all")
        assert (item.image_id, item.captions) == (f"0.tar/{key}.jpg", ("a cat",))


def test_an_id_of_0_is_one(tmp_path, draw):
    files = [
        (f"photo v1.{number}.{ending}", text)
        for number in (0, 1)
        for ending, text in (("jpg", jpeg(draw)), ("json", json.dumps({"image_id": float(number)}).encode()))
    ]
    assert index_shard(pack(tmp_path / "0.tar", files)) == (2, [])
    ids = [item.image_id for item in find_reader(tmp_path).read("all")]
    assert [(image_id, type(image_id)) for image_id in ids] == [(0, int), (1, int)]


def test_an_empty_photo_is_left_out(tmp_path, draw):
    shard = pack(tmp_path / "0.tar", [("a.jpg", b""), ("b.jpg", jpeg(draw))])
    num_images, problems = index_shard(shard)
    assert (num_images, [str(problem) for problem in problems]) == (1, [f"{shard}/a.jpg: left out: is empty"])


def test_any_change_of_an_index_is_found(one_index):
    """Each of its values, swapped lines and values among them; whether it is possible or not."""
    whole = one_index.read_text()
    head, *lines = [json.loads(line) for line in whole.splitlines()]
    assert read(one_index)
    changed = [
        [{**head, **change}, *lines]
        for change in (
            {"num_bytes": head["num_bytes"] + 512},
            {"checksum": 5},
            {"checksum": None},
            {"checksum": str(head["checksum"])},
        )
    ]
    changed += [
        [{"format": 1, "num_bytes": head["num_bytes"], "num_images": len(lines), "check": head["checksum"]}, *lines]
    ]
    changed += [
        [head, {**lines[0], **change}, *lines[1:]]
        for change in (
            {"image": "x.jpg"},
            {"image_id": 5},
            {"captions": ["a dog"]},
            {"size": lines[0]["size"] - 1},
            {"size": 0},
            {"offset": lines[0]["offset"] + 512},
        )
    ]
    offsets = [line["offset"] for line in lines]
    offsets[:2] = offsets[1::-1]
    swapped = [{**line, "offset": offset} for line, offset in zip(lines, offsets, strict=True)]
    changed += [[head, *swapped], [head, *lines[::-1]], [{**head, "num_images": len(lines) - 1}, *lines[:-1]]]
    for entries in changed:
        one_index.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
        with pytest.raises(
            ShardError, match=r"dev-000000.tar.jsonl: damaged \(its checksum is another one\), or .*again"
        ):
            read(one_index)
    one_index.write_text(whole)
    assert read(one_index)


def test_an_index_without_a_checksum_holds_values_of_their_types(one_index):
    """As version 0.1.0 wrote it."""
    before = read(one_index)
    first, *rest = one_index.read_text().splitlines(keepends=True)
    head, line = json.loads(first), json.loads(rest[0])
    del head["checksum"]
    whole = [json.dumps(head) + "\n", *rest]
    one_index.write_text("".join(whole))
    assert read(one_index) == before
    heads = [{"format": value} for value in ("1", None, [], 1.5, True)]
    heads += [{"num_bytes": value} for value in ("9", None, -1, 0.5)] + [
        {"num_images": value} for value in ("1", None, [], float(len(rest)))
    ]
    heads += [{"num_bytes": 10**30}, {"num_bytes": line["offset"] + line["size"] - 1}]
    lines = [{"offset": value} for value in ("9", None, -512, 1.5, True, 0, 513, head["num_bytes"], 10**15, 10**30)]
    lines += [{"size": value} for value in ("9", 0, -1, 2.0, True, head["num_bytes"], 10**15, 10**30)] + [{"image": 5}]
    lines += [{"image_id": value} for value in (True, 1.5, None, [1], "")] + [{"captions": ["a \ud83d"]}]
    lines += [{"captions": value} for value in ("a dog", None, [5], [["a"]], {"a": "b"})] + [{"more": 1}]
    bad = [json.dumps({**head, **change}) + "\n" + "".join(whole[1:]) for change in heads]
    bad += [whole[0] + json.dumps({**line, **change}) + "\n" + "".join(whole[2:]) for change in lines]
    bad += ["[" * 100_000, "\xff\xfe", "null\n", whole[0] + "5\n" * (len(whole) - 1)]
    bad += [json.dumps({**head, "num_images": True}) + "\n" + rest[0]]
    bad += ["".join(whole).replace('"size": ', '"size": 1, "size": ', 1)]
    for text in bad:
        one_index.write_text(text)
        with pytest.raises(ShardError, match=r"dev-000000.tar.jsonl: damaged .*make it again"):
            read(one_index)
    one_index.write_text(json.dumps({**head, "format": 2}) + "\n" + "".join(whole[1:]))
    with pytest.raises(ShardError, match="made by a newer captioner"):
        read(one_index)
