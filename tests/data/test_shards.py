"""Shards: images in tars are read as their files are, here or remote; and an index is true to its shard."""

from __future__ import annotations

import gzip
import io
import json
import multiprocessing
import os
import pickle
import tarfile
from itertools import chain, islice
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch

from captioner.data import (
    CaptionFolder,
    ImageError,
    ImageTransform,
    Shards,
    find_images,
    find_reader,
    open_image,
    stream_shard,
)
from captioner.data.batches import BucketedBatches, LoadError
from captioner.data.datamodule import CaptionData
from captioner.data.feature_cache import FeatureCache, build_cache
from captioner.data.shard_sets import ShardError, index_shard, write_shards
from captioner.data.shards import COPY_SUFFIX, READ_AHEAD, Copies, Shard, ShardImage, find_shards, is_shard
from captioner.tokenizer import WordLevel
from captioner.types import CaptionedImage, Memory

NUM_IMAGES = 40


class Cells(torch.nn.Module):
    """An encoder."""

    def __init__(self):
        super().__init__()
        self.network = torch.nn.Conv2d(3, 4, 16, 16)

    def forward(self, pixels):
        return Memory.from_grid(self.network(pixels / 255))


def jpeg(draw, seed=0):
    file = io.BytesIO()
    draw(seed).save(file, "JPEG")
    return file.getvalue()


def pack(path, files):
    """A tar of (name, content)."""
    with tarfile.open(path, "w") as archive:
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return str(path)


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


# ------------------------------------------------------------------------------------------ names


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


# ------------------------------------------------------------------------------------------ streaming


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


def _error(image):
    try:
        open_image(image)
    except ImageError as error:
        return str(error)
    return None


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


# ------------------------------------------------------------------------------------------ a data set


def test_a_data_set_comes_back_from_its_shards(photos, packed):
    reader = find_reader(packed)
    assert isinstance(reader, Shards)
    assert reader.splits == ("dev", "train")
    for split in reader.splits:
        before, after = photos.read(split), reader.read(split)
        assert [(item.image_id, item.captions) for item in after] == [(item.image_id, item.captions) for item in before]
        assert [item.path.read_bytes() for item in after] == [item.path.read_bytes() for item in before]
    with tarfile.open(packed / "dev-000000.tar") as archive:
        notes = json.load(archive.extractfile("000000001.json"))
    item = photos.read("dev")[1]
    assert notes == {"image_id": item.image_id, "captions": list(item.captions), "file_name": item.path.name}


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


def test_an_image_that_is_not_where_the_index_says(packed, tmp_path):
    shard = Shard(f"{tmp_path}/gone.tar")
    assert _error(ShardImage(shard, "1.jpg", 512, 99)) == f"{tmp_path}/gone.tar/1.jpg: no such file"
    shard = Shard(f"{packed}/dev-000000.tar")
    assert "0 bytes of 99" in _error(ShardImage(shard, "1.jpg", 10**9, 99))


# ------------------------------------------------------------------------------------------ remote


def remote_reader(remote, packed, copies=None, copies_gb=1.0):
    index = {"train": str(packed), "dev": remote}  # indices may lie here or there
    return Shards({split: f"{remote}/{split}-*.tar" for split in index}, index, copies, copies_gb)


@pytest.mark.parametrize("copied", [False, True])
def test_remote_shards(remote, packed, photos, tmp_path, copied):
    reader = remote_reader(remote, packed, str(tmp_path / "copies") if copied else None)
    for split in ("train", "dev"):
        before, after = photos.read(split), reader.read(split)
        assert [item.path.read_bytes() for item in after] == [item.path.read_bytes() for item in before]
    assert len(list(tmp_path.glob(f"copies/*{COPY_SUFFIX}"))) == (len(list(packed.glob("*.tar"))) if copied else 0)
    assert [image.read_bytes() for image in stream_shard(f"{remote}/dev-000000.tar")][0] == before[0].path.read_bytes()
    fsspec.filesystem("memory").pipe("/bucket/dev-000000.tar", b"other")
    with pytest.raises(ShardError, match=r"dev-000000.tar: has 5 bytes"):
        reader.read("dev")


def test_copies_are_few_and_the_last_ones_used(remote, packed, tmp_path):
    sizes = {path.name: path.stat().st_size for path in packed.glob("train-*.tar")}
    copies = Copies(str(tmp_path), 3 * max(sizes.values()))
    (tmp_path / "mine.tar").write_bytes(bytes(copies.max_bytes))
    shards = [Shard(f"{remote}/{name}", sizes[name], copies) for name in sorted(sizes)]
    for shard in (*shards, shards[-3]):
        with copies.open(shard) as file:
            assert file.read() == (packed / shard.url.rpartition("/")[2]).read_bytes()
        assert sum(path.stat().st_size for path in tmp_path.glob(f"*{COPY_SUFFIX}")) <= copies.max_bytes
        assert not list(tmp_path.glob("*.part"))
    assert (tmp_path / "mine.tar").exists()
    fsspec.filesystem("memory").rm("/bucket/*")  # what is there is not asked for again
    for shard in shards[-3:]:
        copies.open(shard).close()
    with pytest.raises(FileNotFoundError):
        copies.open(shards[0])


def test_a_shard_that_has_no_room_is_an_error(remote, packed, tmp_path):
    with pytest.raises(ShardError, match="do not fit in copies_gb=1e-06"):
        remote_reader(remote, packed, str(tmp_path), 1e-6).read("train")


def _copy(copies, url, size, queue):
    with copies.open(Shard(url, size, copies)) as file:
        queue.put(len(file.read()))


def test_processes_share_copies(packed, tmp_path):
    path = packed / "train-000000.tar"
    size = path.stat().st_size
    copies = Copies(str(tmp_path), size)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    processes = [context.Process(target=_copy, args=(copies, f"file://{path}", size, queue)) for _ in range(4)]
    for process in processes:
        process.start()
    assert [queue.get(timeout=60) for _ in processes] == [size] * 4
    for process in processes:
        process.join()
    assert len(list(tmp_path.glob(f"*{COPY_SUFFIX}"))) == 1


def test_an_open_shard_is_not_shared_with_a_child(packed):
    """A file that parent and child had open together would have one position for both."""
    items = find_reader(packed).read("train")
    expected = [item.path.read_bytes() for item in items]
    context = multiprocessing.get_context("fork")
    with context.Pool(2) as pool:
        for _ in range(5):
            result = pool.map_async(_content, [item.path for item in items])
            assert [item.path.read_bytes() for item in items] == expected
            assert result.get(timeout=60) == expected


def _content(image):
    return image.read_bytes()


# ------------------------------------------------------------------------------------------ the order of training


def shard_numbers(num_shards, each=50):
    return np.repeat(np.arange(num_shards), each)


@pytest.mark.parametrize("num_shards", [1, 2, 5, 23])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_an_epoch_of_shards_is_exact(num_shards, world_size):
    shards = shard_numbers(num_shards, 31)
    longest = np.random.default_rng(0).integers(3, 30, len(shards))

    def batches(rank, epoch):
        return BucketedBatches(longest, 8, 1, 4, rank, world_size, shards, open_shards=3).of_epoch(epoch)

    epochs = [[batches(rank, epoch) for rank in range(world_size)] for epoch in (0, 1)]
    for epoch in epochs:
        assert len({len(of_rank) for of_rank in epoch}) == 1
        everything = sorted(index for of_rank in epoch for batch in of_rank for index in batch)
        assert everything == list(range(len(shards)))
    assert epochs[0] != epochs[1]
    assert epochs[0] == [batches(rank, 0) for rank in range(world_size)]


def test_few_shards_are_read_at_a_time_and_batches_mix_them():
    shards = shard_numbers(60)
    longest = np.random.default_rng(0).integers(3, 30, len(shards))
    batches = BucketedBatches(longest, 10, window=10, shards=shards, open_shards=6).of_epoch(0)
    num_open = [len({shards[index] for batch in batches[i : i + 20] for index in batch}) for i in range(280)]
    assert max(num_open) <= 3 * 6 + 2  # the windows of batches that are sorted by length reach over
    mixed = [len({shards[index] for index in batch}) for batch in batches]
    assert min(mixed[:20]) >= 2  # from the first batch on
    assert np.mean(mixed) > 4
    seen = np.zeros(60, dtype=int)
    for batch in batches:
        seen += np.bincount(shards[batch], minlength=60)
    assert (seen == 50).all()


def test_one_shard_or_a_few_are_as_random_as_files():
    longest = np.random.default_rng(0).integers(3, 30, 400)
    plain = BucketedBatches(longest, 8).of_epoch(2)
    assert BucketedBatches(longest, 8, shards=np.zeros(400, dtype=int)).of_epoch(2) == plain
    firsts = []
    for epoch in range(200):
        first = BucketedBatches(longest, 8, shards=shard_numbers(4, 100)).of_epoch(epoch)[0]
        firsts += [index // 100 for index in first]
    assert np.allclose(np.bincount(firsts) / len(firsts), 1 / 4, atol=0.06)


def caption_data(reader, num_workers=0, **options):
    return CaptionData(
        reader,
        ImageTransform(32),
        WordLevel(min_count=1),
        batch_size=4,
        eval_batch_size=4,
        num_workers=num_workers,
        bucket_window=2,
        open_shards=2,
        **options,
    )


def seen(batches):
    return [[item.image_id for item in batch.items] for batch in batches]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_training_from_shards_goes_on_exactly(photos, packed, num_workers):
    loader = caption_data(find_reader(packed), num_workers).train_dataloader()
    epochs = [list(loader), list(loader)]
    assert sorted(chain(*seen(epochs[0]))) == sorted(item.image_id for item in photos.read("train"))
    assert seen(epochs[0]) != seen(epochs[1])
    files = {item.image_id: ImageTransform(32)(open_image(item.path)) for item in photos.read("train")}
    for batch in epochs[1]:
        assert torch.equal(batch.source, torch.stack([files[item.image_id] for item in batch.items]))
    again = caption_data(find_reader(packed), num_workers).train_dataloader()
    again.load_state_dict({"epoch": 1, "num_used": 4, "num_batches": len(loader)})
    rest = list(again)
    assert seen(rest) == seen(epochs[1])[4:]
    assert all(torch.equal(one.source, other.source) for one, other in zip(rest, epochs[1][4:], strict=True))


def test_validation_reads_every_image_once(photos, packed):
    batches = list(caption_data(find_reader(packed)).val_dataloader())
    assert sorted(chain(*seen(batches))) == sorted(item.image_id for item in photos.read("dev"))


def test_a_broken_image_in_a_shard_stops_training_by_name(tmp_path, draw):
    notes = b'{"captions": ["a cat"]}'
    shard = pack(
        tmp_path / "train-0.tar", [("1.jpg", jpeg(draw)), ("1.json", notes), ("2.jpg", b"?"), ("2.json", notes)]
    )
    index_shard(shard)
    data = caption_data(find_reader(tmp_path))
    with pytest.raises(LoadError, match=r"train-0.tar/2.jpg: not an image"):
        list(data.train_dataloader())


def test_features_of_files_are_found_for_shards(photos, packed, tmp_path):
    """A cache knows an image by its bytes, wherever they lie."""
    encoder = Cells().requires_grad_(False)
    transform = ImageTransform(32)
    files, shards = photos.read("dev"), find_reader(packed).read("dev")
    assert build_cache(tmp_path / "a", files, encoder, transform, num_workers=0, report=str) == []
    assert build_cache(tmp_path / "b", shards, encoder, transform, num_workers=0, report=str) == []
    first, second = (FeatureCache.open(tmp_path / name, encoder, transform) for name in "ab")
    assert first.check(shards) == second.check(files) == []
    for file, image in zip(files, shards, strict=True):
        assert torch.equal(first.load(image.path), second.load(file.path))
    gone = CaptionedImage("x", ShardImage(Shard(f"{tmp_path}/gone.tar"), "x.jpg", 0, 9))
    assert [str(problem) for problem in first.check([gone])] == [f"{tmp_path}/gone.tar/x.jpg: no such file"]


def test_images_are_found_beside_shards(packed):
    found, problems = find_images([str(packed)])
    assert not found
    assert [problem.reason for problem in problems] == ["no image in this folder"]
