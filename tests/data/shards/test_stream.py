"""All images of a shard, in one pass."""

from __future__ import annotations

import gzip
import pickle
import re
import tarfile
from itertools import islice
from pathlib import Path

import fsspec
import numpy as np
import pytest
from shard_cases import _error, jpeg, pack

from captioner.data import open_image, stream_shard
from captioner.data.shards import ShardError, find_shards, index_shard, stream
from captioner.data.shards.stream import READ_AHEAD


def test_a_stream_gives_every_image_as_its_file_is(photos, packed):
    items = photos.read("train")
    images = [image for shard in find_shards(f"{packed}/train-*.tar") for image in stream_shard(shard)]
    assert [image.read_bytes() for image in images] == [item.path.read_bytes() for item in items]
    assert str(images[1]) == f"{packed}/train-000000.tar/000000001.jpg"
    assert (images[1].name, images[1].stem) == ("000000001.jpg", "000000001")
    for image, item in zip(images, items, strict=True):
        assert np.array_equal(open_image(image), open_image(item.path))
        assert open_image(pickle.loads(pickle.dumps(image))).size == (60, 40)


def test_a_stream_is_lazy_and_keeps_nothing(tmp_path, draw, monkeypatch):
    shard = pack(tmp_path / "x.tar", [(f"{number}.jpg", jpeg(draw)) for number in range(300)])
    held = []
    original = tarfile.TarFile.next
    monkeypatch.setattr(tarfile.TarFile, "next", lambda archive: held.append(len(archive.members)) or original(archive))
    images = stream_shard(shard)
    assert not held
    assert [image.name for image in islice(images, 3)] == ["0.jpg", "1.jpg", "2.jpg"]
    assert 3 <= len(held) <= 3 + READ_AHEAD + 1
    assert len(list(images)) == 297
    assert max(held) <= 1


@pytest.fixture
def elsewhere(tmp_path, draw):
    """A shard of ten images, remote and compressed; and what is in it."""
    contents = [jpeg(draw, number) for number in range(10)]
    shard = Path(pack(tmp_path / "x.tar", [(f"{number}.jpg", content) for number, content in enumerate(contents)]))
    with gzip.open(tmp_path / "x.tar.gz", "wb") as file:
        file.write(shard.read_bytes())
    fsspec.filesystem("memory").pipe("/bounded/x.tar", shard.read_bytes())
    yield ("memory://bounded/x.tar", f"{tmp_path}/x.tar.gz"), contents
    fsspec.filesystem("memory").rm("/bounded", recursive=True)


def lent(image):
    return sum(map(len, image.loan.data)) if image.loan is not None else 0


def test_what_is_read_ahead_is_bounded_in_bytes(elsewhere, monkeypatch):
    """Images past the bound are read when they are opened, and so are those that are opened again."""
    urls, contents = elsewhere
    monkeypatch.setattr(stream, "READ_AHEAD_BYTES", 3 * max(map(len, contents)))
    for url in urls:
        images = list(stream_shard(url))
        assert 2 <= sum(lent(image) > 0 for image in images) <= 4
        assert sum(map(lent, images)) <= stream.READ_AHEAD_BYTES
        for _ in range(2):
            assert [image.read_bytes() for image in images] == contents
            assert sum(map(lent, images)) == 0
        seen = [(lent(image) > 0, image.read_bytes()) for image in stream_shard(url)]
        assert [content for _, content in seen] == contents
        monkeypatch.setattr(stream, "READ_AHEAD", 2)
        assert all(lent(image) and image.read_bytes() for image in stream_shard(url))  # opened as they come
        assert all(lent(image) for image in stream_shard(url))  # and so when nobody has them any more
        assert pickle.loads(pickle.dumps(images[0])).read_bytes() == contents[0]


def test_images_on_this_disk_are_read_when_they_are_opened(tmp_path, draw):
    shard = pack(tmp_path / "x.tar", [("0.jpg", jpeg(draw))])
    (image,) = stream_shard(shard)
    assert (image.loan, image.num_bytes) == (None, len(jpeg(draw)))
    assert image.read_bytes() == jpeg(draw)


def test_images_in_a_shard_are_known_by_their_first_bytes(tmp_path, draw):
    files = [
        ("a", jpeg(draw)),
        ("b.heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"),
        ("c", b"\0\0\0\x0cJXL \r\n\x87\n"),
        ("d.cls", b"5"),
        ("e.json", b"{}"),
        ("f.mp4", b"\0\0\0\x18ftypmp42"),
        ("g.xmp", b"<?xpacket"),
    ]
    images = list(stream_shard(pack(tmp_path / "x.tar", files)))
    assert [image.name for image in images] == ["a", "b.heic", "c"]
    assert _error(images[0]) is None
    assert "JPEG XL image" in _error(images[2])


def test_a_header_of_gigabytes_is_the_shard_s_error(tmp_path, draw):
    header = tarfile.TarInfo("PaxHeaders/1.jpg")
    header.type, header.size = tarfile.XHDTYPE, 4 << 30
    shard = Path(pack(tmp_path / "x.tar", [("0.jpg", jpeg(draw))]))
    content = shard.read_bytes()[: 512 + -(-len(jpeg(draw)) // 512) * 512]
    shard.write_bytes(content + header.tobuf(tarfile.GNU_FORMAT))
    image, last = stream_shard(str(shard))
    assert _error(image) is None
    assert re.match(
        r".*/x\.tar: damaged or cut short \(the header 'PaxHeaders/1.jpg' at byte .*4,294,967,296", _error(last)
    )
    with pytest.raises(ShardError, match=r"x\.tar: damaged or cut short \(the header 'PaxHeaders/1.jpg'"):
        index_shard(str(shard))


def test_any_tar_of_images_is_streamed(tmp_path, draw):
    files = [
        ("./holiday/IMG.2020.01.JPG", jpeg(draw, 1)),
        ("./holiday/._IMG.2020.01.JPG", b"hidden"),
        ("../../größe 猫.png", jpeg(draw, 2)),
        ("notes.txt", b"text"),
        ("broken.jpg", b"no image"),
        ("empty.jpg", b""),
        ("a" * 150 + ".jpg", jpeg(draw, 3)),
    ]
    shard = pack(tmp_path / "x.tar", files)
    with tarfile.open(shard, "a") as archive:
        archive.add(tmp_path, "a folder.jpg", recursive=False)
        link = tarfile.TarInfo("link.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        archive.addfile(link)
    images = list(stream_shard(shard))
    assert [image.member for image in images] == [files[number][0] for number in (0, 2, 4, 5, 6)]
    assert [image.member for image in images if _error(image) is None] == [files[number][0] for number in (0, 2, 6)]
    assert _error(images[2]).startswith(f"{shard}/broken.jpg: not an image")
    assert _error(images[3]) == f"{shard}/empty.jpg: the file is empty"
    with gzip.open(tmp_path / "x.tar.gz", "wb") as file:
        file.write(Path(shard).read_bytes())
    assert [image.member for image in stream_shard(f"{tmp_path}/x.tar.gz")] == [image.member for image in images]


def test_what_is_wrong_with_a_shard_is_one_last_error(tmp_path, draw):
    content = jpeg(draw)
    whole = Path(pack(tmp_path / "x.tar", [(f"{number}.jpg", content) for number in range(3)])).read_bytes()
    sample = 512 + -(-len(content) // 512) * 512
    for length in (0, 100, 512, sample - 512, sample, sample + 100, 2 * sample + 600, 3 * sample):
        (tmp_path / "cut.tar").write_bytes(whole[:length])
        *images, last = stream_shard(f"{tmp_path}/cut.tar")
        assert len(images) == length // sample
        assert all(_error(image) is None for image in images)
        assert _error(last).startswith(f"{tmp_path}/cut.tar: damaged or cut short")
    damaged = bytearray(whole)
    damaged[sample : sample + 512] = b"x" * 512
    (tmp_path / "cut.tar").write_bytes(damaged)
    assert [_error(image) is None for image in stream_shard(f"{tmp_path}/cut.tar")] == [True, False]
    for place in (f"{tmp_path}/none.tar", "memory://none.tar", "nothing://x.tar"):
        (image,) = stream_shard(place)
        assert (str(image), _error(image)[: len(place) + 2]) == (place, f"{place}: ")
