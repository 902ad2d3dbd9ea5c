"""The run by Ray: machines are shared out, killed runs go on."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from bulk_cases import pq

import captioner
from captioner.bulk import Share, share_out


@pytest.mark.parametrize(
    ("nodes", "device", "workers", "share"),
    [
        ([{"CPU": 2}], "auto", None, Share(2, 1, 0)),
        ([{"CPU": 8}, {"CPU": 1}], "auto", None, Share(9, 1, 0)),
        ([{"CPU": 2}], "auto", 1, Share(1, 2, 0)),
        ([{"CPU": 8}, {"CPU": 4}, {"memory": 1}], "cpu", 3, Share(3, 4, 0)),
        ([{"CPU": 8}, {"CPU": 4}], "cpu", 4, Share(4, 2, 0)),
        ([{"CPU": 64, "GPU": 8}, {"CPU": 64, "GPU": 8}], "auto", None, Share(16, 0, 1)),
        ([{"CPU": 64, "GPU": 8}], "cuda", 3, Share(3, 0, 1)),
        ([{"CPU": 4, "GPU": 8}], "cpu", 1, Share(1, 4, 0)),
    ],
)
def test_machines_are_shared_out(nodes, device, workers, share):
    assert share_out(nodes, device, workers) == share


@pytest.mark.parametrize("node", [{"CPU": 4, "GPU": 2}, {"CPU": 2}])
def test_more_workers_than_there_is_room_for(node):
    with pytest.raises(ValueError, match="3 workers: there are 2"):
        share_out([node], "auto", 3)


def wait_for(condition, process):
    """What the condition says when it says something."""
    end = time.monotonic() + 240
    while not (said := condition()):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < end
        time.sleep(0.01)
    return said


@pytest.mark.skipif(sys.platform != "linux", reason="kills processes")
def test_killed_runs_go_on(album, draw, model_file, tmp_path):
    """A worker is killed, then the command itself; the same command then finishes: every image once, none lost."""
    pytest.importorskip("ray")
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(60):
        draw(number).save(photos / f"{number:03d}.png")
    shutil.copy(album / "half.png", photos / "031.png")
    out = tmp_path / "out"
    command = [
        sys.executable,
        "-m",
        "captioner.cli.main",
        "caption",
        "photos",
        "--model",
        model_file,
        "--device",
        "cpu",
    ]
    command += ["--engine", "ray", "--output", "out", "--chunk-size", "2", "--workers", "1", "--beam-size", "20"]
    environment = {**os.environ, "PYTHONPATH": str(Path(captioner.__file__).parents[1])}
    options = {"cwd": tmp_path, "env": environment, "stderr": subprocess.PIPE, "text": True}

    def chunks() -> set[str]:
        return {path.name for path in out.glob("part-*")}

    def at_work() -> int | None:
        """The process that began the last chunk, once it has written that down."""
        with contextlib.suppress(ValueError, IndexError, FileNotFoundError):
            return int(max(out.glob(".run/*.tries")).read_text().split()[1])
        return None

    process = subprocess.Popen(command, **options)
    wait_for(lambda: len(chunks()) >= 2, process)
    worker = wait_for(at_work, process)
    os.kill(worker, signal.SIGKILL)
    killed_at = len(chunks())
    wait_for(lambda: len(chunks()) > killed_at + 1, process)
    assert not Path(f"/proc/{worker}").exists()
    process.kill()
    process.communicate()
    before = {name: (out / name).stat().st_mtime_ns for name in chunks()}
    assert len(before) < 30
    process = subprocess.run(command, **options)
    assert process.returncode == 1, process.stderr
    assert f"1 could not be read ({len(before)} of 30 chunks were done before)" in process.stderr.splitlines()[-1]
    assert {name: (out / name).stat().st_mtime_ns for name in before} == before
    rows = pq.read_table(out).to_pylist()
    assert sorted(row["image"] for row in rows) == [f"photos/{number:03d}.png" for number in range(60)]
    assert [row["image"] for row in rows if row["error"]] == ["photos/031.png"]
    assert all(row["caption"] for row in rows if not row["error"])
