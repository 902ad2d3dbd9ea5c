"""Images of a shard one by one, and copies of remote shards."""

from __future__ import annotations

import multiprocessing

import fsspec
import pytest
from shard_cases import _error

from captioner.data import Shards, find_reader
from captioner.data.shards import Copies, Shard, ShardError, ShardImage
from captioner.data.shards.storage import COPY_SUFFIX


def test_an_image_that_is_not_where_the_index_says(packed, tmp_path):
    shard = Shard(f"{tmp_path}/gone.tar")
    assert _error(ShardImage(shard, "1.jpg", 512, 99)) == f"{tmp_path}/gone.tar/1.jpg: no such file"
    shard = Shard(f"{packed}/dev-000000.tar")
    assert "0 bytes of 99" in _error(ShardImage(shard, "1.jpg", 10**9, 99))


def remote_reader(remote, packed, copies=None, copies_gb=1.0):
    index = {"train": str(packed), "dev": remote}  # indices may lie here or there
    return Shards({split: f"{remote}/{split}-*.tar" for split in index}, index, copies, copies_gb)


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
