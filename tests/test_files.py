"""Files come to be whole or not at all; a folder is held by one process."""

from __future__ import annotations

import contextlib
import fcntl
import multiprocessing
import os
import shutil
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from captioner.files import (
    ABANDONED,
    LockedError,
    held,
    in_threads,
    kept,
    locked,
    sweep,
    whole_file,
    whole_text,
    write_whole,
)


def test_a_file_comes_to_be_when_it_is_whole(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with whole_file(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with pytest.raises(TypeError), whole_file(path) as file:
        file.write("text")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_may_be_made_elsewhere(tmp_path):
    workshop = tmp_path / "new" / "workshop"
    with whole_file(tmp_path / "a.bin", workshop) as file:
        file.write(b"new")
        assert len(list(workshop.iterdir())) == 1
    assert list(workshop.iterdir()) == []
    assert (tmp_path / "a.bin").read_bytes() == b"new"


def test_a_link_stays_one(tmp_path):
    target, link = tmp_path / "folder" / "a.bin", tmp_path / "link"
    target.parent.mkdir()
    link.symlink_to(target)
    write_whole(link, b"new")
    assert link.is_symlink()
    assert target.read_bytes() == b"new"


def test_a_pipe_is_written_to_not_replaced(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    write_whole(path, b"new")
    assert os.read(reader, 10) == b"new"
    os.close(reader)
    assert path.is_fifo()
    with pytest.raises(IsADirectoryError):
        write_whole(tmp_path, b"new")


def test_text_is_whole_too(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with whole_text(path) as file:
        print("Füße 猫 \udcff", file=file)
        assert not path.exists()
    assert path.read_text(encoding="utf-8") == "Füße 猫 \\udcff\n"
    with pytest.raises(TypeError), whole_text(path) as file:
        file.write(b"no text")
    assert path.read_text(encoding="utf-8").startswith("Füße")
    write_whole(path, "ö")
    write_whole(tmp_path / "b.bin", b"\xff")
    assert (path.read_bytes(), (tmp_path / "b.bin").read_bytes()) == ("ö".encode(), b"\xff")
    assert sorted(tmp_path.rglob("*")) == [tmp_path / "b.bin", tmp_path / "new", path]


def write_for_long(path, has_begun):
    with whole_file(path) as file:
        file.write(b"half")
        file.flush()
        has_begun.set()
        time.sleep(60)


def test_what_a_killed_process_left_aside_is_removed_by_the_next(tmp_path):
    """But not what one is still at work on, nor what is not ours."""
    context = multiprocessing.get_context("fork")
    writers = []
    for name in ("a.bin", "a.bin", "b.bin"):
        has_begun = context.Event()
        writers.append(context.Process(target=write_for_long, args=(tmp_path / name, has_begun)))
        writers[-1].start()
        assert has_begun.wait(20)
    (tmp_path / ".mine.part").touch()
    for writer in (writers[0], writers[2]):
        writer.kill()
        writer.join(20)
    assert len(list(tmp_path.iterdir())) == 4
    write_whole(tmp_path / "a.bin", b"whole")
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".bin", ".captioner-part", ".part"]
    writers[1].kill()
    writers[1].join(20)
    sweep(tmp_path)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".bin", ".part"]


@pytest.fixture
def left(tmp_path):
    """Files that lie aside in a folder, by name: fresh ones, or without a byte for longer than a day."""

    def leave(name, silent=False):
        path = tmp_path / name
        path.touch()
        if silent:
            os.utime(path, (time.time() - ABANDONED - 60,) * 2)
        return path

    return leave


OF_ANOTHER_MACHINE = ".0123abcd-" + "e" * 32 + ".captioner-part"


def test_what_another_machine_has_aside_is_left_alone_for_a_day(tmp_path, left):
    """Its lock may not reach this machine."""
    path = left(OF_ANOTHER_MACHINE)
    sweep(tmp_path)
    assert path.exists()
    left(OF_ANOTHER_MACHINE, silent=True)
    with open(path, "r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        sweep(tmp_path)
        assert path.exists()
    sweep(tmp_path)
    assert not path.exists()


EARLIER_NAMES = (
    "." + "f" * 32 + ".tmp",
    "regions-00001.safetensors.4711.tmp",
    ".last.ckpt.tmp",
    "cache.json.tmp",
    ".train.tar.part",
)


def test_what_earlier_versions_left_aside_goes_after_a_day(tmp_path, left):
    paths = [left(name) for name in EARLIER_NAMES]
    sweep(tmp_path)
    assert all(path.exists() for path in paths)
    for name in (*EARLIER_NAMES, "notes.tmp", "4711.tmp", "photos.tar.part"):
        left(name, silent=True)
    sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["4711.tmp", "notes.tmp", "photos.tar.part"]


def test_without_locks_what_is_left_aside_goes_after_a_day(tmp_path, left, monkeypatch):
    """On Windows, and on file systems that have none, a fresh file may be another process's."""

    def flock(file, operation):
        raise OSError(38, "Function not implemented")

    with whole_file(tmp_path / "a") as file:
        own = Path(file.name).name
    for setting, value in (("captioner.files.fcntl.flock", flock), ("captioner.files.fcntl", None)):
        monkeypatch.setattr(setting, value)
        path = left(own)
        sweep(tmp_path)
        assert path.exists()
        left(own, silent=True)
        sweep(tmp_path)
        assert not path.exists()


def test_files_are_swept_that_are_locked_for_writing_alone(tmp_path, left, monkeypatch):
    """As on NFS."""

    def flock(file, operation):
        if fcntl.fcntl(file, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(9, "Bad file descriptor")

    with whole_file(tmp_path / "a") as file:
        own = Path(file.name).name
    path = left(own)
    monkeypatch.setattr("captioner.files.fcntl.flock", flock)
    sweep(tmp_path / "no such folder")
    sweep(tmp_path)
    assert not path.exists()


def write_often(path, content):
    for _ in range(300):
        sweep(path.parent)
        write_whole(path, content)


def test_writers_of_one_file_leave_each_other_alone(tmp_path):
    context = multiprocessing.get_context("fork")
    contents = [bytes([65 + number]) * 1000 for number in range(3)]
    writers = [context.Process(target=write_often, args=(tmp_path / "a.bin", content)) for content in contents]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    assert (tmp_path / "a.bin").read_bytes() in contents
    assert list(tmp_path.iterdir()) == [tmp_path / "a.bin"]


def test_without_locks_files_are_whole_all_the_same(tmp_path, monkeypatch):
    """On some network file systems, and on Windows."""

    def flock(file, operation):
        raise OSError(38, "Function not implemented")

    with monkeypatch.context() as patch:
        patch.setattr("captioner.files.fcntl.flock", flock)
        write_whole(tmp_path / "a.bin", b"a")
    with monkeypatch.context() as patch:
        patch.setattr("captioner.files.fcntl", None)
        write_whole(tmp_path / "b.bin", b"b")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a.bin": b"a", "b.bin": b"b"}


def test_a_file_keeps_its_mode_and_may_have_a_long_name(tmp_path):
    path = tmp_path / ("a" * 255)
    path.touch(mode=0o600)
    write_whole(path, b"new")
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_child_that_was_forked_meanwhile_holds_no_lock(tmp_path):
    context = multiprocessing.get_context("fork")
    with locked(tmp_path):
        child = context.Process(target=time.sleep, args=(30,))
        child.start()
    with locked(tmp_path):
        child.kill()
    child.join(20)


def test_different_things_in_a_folder_are_held_apart(tmp_path):
    with locked(tmp_path, name="one"), locked(tmp_path, name="other"):
        assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "other"]


def test_several_values_at_once_come_back_in_order():
    both = threading.Barrier(2, timeout=10)

    def wait(value):
        both.wait()
        return value * 2

    assert list(in_threads(wait, range(4), 2)) == [0, 2, 4, 6]


def hold(folder, is_held, let_go):
    with locked(folder):
        is_held.set()
        let_go.wait(20)


def test_a_folder_is_held_by_one(tmp_path):
    context = multiprocessing.get_context("fork")
    is_held, let_go = context.Event(), context.Event()
    other = context.Process(target=hold, args=(tmp_path / "new", is_held, let_go))
    other.start()
    assert is_held.wait(20)
    with pytest.raises(LockedError, match="another process is writing to it"), locked(tmp_path / "new"):
        pass
    threading.Timer(0.2, let_go.set).start()
    begin = time.monotonic()
    with locked(tmp_path / "new", wait=True):
        assert time.monotonic() - begin > 0.1
    other.join(20)


def test_a_process_that_is_killed_lets_go(tmp_path):
    context = multiprocessing.get_context("fork")
    is_held, let_go = context.Event(), context.Event()
    other = context.Process(target=hold, args=(tmp_path, is_held, let_go))
    other.start()
    assert is_held.wait(20)
    other.kill()
    other.join(20)
    with locked(tmp_path):
        pass


def hold_name(path, is_held, let_go):
    with held(path):
        is_held.set()
        let_go.wait(20)


def test_a_name_is_held_by_one_and_nothing_stays_behind(tmp_path):
    context = multiprocessing.get_context("fork")
    is_held, let_go = context.Event(), context.Event()
    path = tmp_path / "new" / ("a" * 255)
    other = context.Process(target=hold_name, args=(path, is_held, let_go))
    other.start()
    assert is_held.wait(20)
    (tmp_path / "link").symlink_to(path)
    for same in (path, str(path), tmp_path / "link"):
        with pytest.raises(LockedError, match="another process is writing to it; wait"), held(same):
            pass
    with held(path.with_name("b")):
        pass
    let_go.set()
    other.join(20)
    with held(path):
        pass
    assert list(path.parent.iterdir()) == []


def test_a_name_that_a_killed_process_held_is_free(tmp_path, left):
    context = multiprocessing.get_context("fork")
    is_held, let_go = context.Event(), context.Event()
    other = context.Process(target=hold_name, args=(tmp_path / "a", is_held, let_go))
    other.start()
    assert is_held.wait(20)
    other.kill()
    other.join(20)
    (lock,) = tmp_path.iterdir()
    sweep(tmp_path)
    assert lock.exists()
    left(lock.name, silent=True)
    with open(lock, "r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        sweep(tmp_path)
    assert lock.exists()
    with held(tmp_path / "a"):
        pass
    assert list(tmp_path.iterdir()) == []


def count_up(path, times):
    for _ in range(times):
        while True:
            try:
                with held(path):
                    path.write_text(str(int(path.read_text()) + 1))
                break
            except LockedError:
                time.sleep(0)


def test_a_name_is_never_held_by_two(tmp_path):
    context = multiprocessing.get_context("fork")
    path = tmp_path / "count"
    path.write_text("0")
    processes = [context.Process(target=count_up, args=(path, 200)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert path.read_text() == "600"


def test_without_locks_a_name_is_not_held(tmp_path, monkeypatch):
    def flock(file, operation):
        raise OSError(38, "Function not implemented")

    for setting, value in (("captioner.files.fcntl.flock", flock), ("captioner.files.fcntl", None)):
        monkeypatch.setattr(setting, value)
        with held(tmp_path / "a"):
            write_whole(tmp_path / "a", b"new")
        assert [path.name for path in tmp_path.iterdir()] == ["a"]


@contextmanager
def vanishing(folder):
    """A folder that is removed while something is written to it."""
    yield
    shutil.rmtree(folder)


def test_a_folder_that_vanishes_is_an_error(tmp_path):
    folder = tmp_path / "out"
    with kept(folder) as check:
        write_whole(folder / "a", b"a")
        check()
    for write in (kept, lambda folder: whole_file(folder / "c")):
        with (
            pytest.raises(FileNotFoundError, match="the folder was removed") as caught,
            write(folder),
            vanishing(folder),
        ):
            pass
        assert caught.value.filename == str(folder)


def test_a_folder_made_anew_is_another(tmp_path):
    folder = tmp_path / "out"
    with contextlib.suppress(FileNotFoundError), kept(folder) as check:
        shutil.rmtree(folder)
        write_whole(folder / "b", b"b")  # which makes the folder anew
        with pytest.raises(FileNotFoundError, match="the folder was removed"):
            check()
