"""All images of a shard, in one pass."""

from __future__ import annotations

import gzip
import pickle
import tarfile
from itertools import islice
from pathlib import Path

import numpy as np
from shard_cases import _error, jpeg, pack

from captioner.data import open_image, stream_shard
from captioner.data.shards import find_shards
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
    read = []
    monkeypatch.setattr(tarfile.ExFileObject, "read", lambda file: read.append(file) or b"")
    stream = stream_shard(shard)
    assert not read
    assert [image.name for image in islice(stream, 3)] == ["0.jpg", "1.jpg", "2.jpg"]
    assert 3 <= len(read) <= 3 + READ_AHEAD
    held = []
    original = tarfile.TarFile.next
    monkeypatch.setattr(tarfile.TarFile, "next", lambda archive: held.append(len(archive.members)) or original(archive))
    assert len(list(stream)) == 297
    assert max(held) <= 1


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
