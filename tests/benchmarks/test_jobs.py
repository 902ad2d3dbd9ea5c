"""Jobs in processes of their own: done, failed, crashed, cut; none harms another, and none is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from benchmarks.jobs import FailedError, Job, do


@pytest.fixture(autouse=True)
def _little_grace(monkeypatch):
    monkeypatch.setattr("benchmarks.jobs.GRACE", 0.3)


def hang(deadline, keep):
    keep({"found": 1})
    keep({"more": 2})
    time.sleep(60)


def be_killed(deadline, keep):
    keep({"found": 1})
    os.kill(os.getpid(), signal.SIGKILL)


def fail(deadline, keep):
    raise ValueError("no such thing\nand more")


def find_too_little(deadline, keep):
    raise FailedError("2 of 3 failed", {"tests": 3})


@pytest.mark.parametrize(
    ("work", "state", "result", "reason"),
    [
        (lambda deadline, keep: {"a": [1]}, "done", {"a": [1]}, ""),
        (hang, "cut", {"found": 1, "more": 2}, "not done in 0 s"),
        (be_killed, "failed", {"found": 1}, "ended by SIGKILL"),
        (fail, "failed", {}, "ValueError: no such thing"),
        (find_too_little, "failed", {"tests": 3}, "2 of 3 failed"),
        (lambda deadline, keep: sys.exit(3), "failed", {}, "it came to nothing"),
        (lambda deadline, keep: os._exit(0), "failed", {}, "it came to nothing"),
    ],
    ids=["done", "cut", "killed", "failed", "told", "left", "vanished"],
)
def test_how_a_job_goes(tmp_path, work, state, result, reason):
    outcome = do(Job("some", 1, work), 0.3 if work is hang else 10, tmp_path)
    assert (outcome.state, outcome.result, outcome.reason) == (state, result, reason)
    assert (outcome.seconds > 0.5) == (work is hang)
    assert [path.name for path in tmp_path.iterdir()] == ["log.txt"]


def test_what_jobs_print_is_in_the_log(tmp_path, capfd):
    def talk(deadline, keep):
        print("to out", flush=True)
        os.write(2, b"to err\n")
        return {}

    do(Job("first", 1, talk), 10, tmp_path)
    do(Job("second", 1, fail), 10, tmp_path)
    log = (tmp_path / "log.txt").read_text()
    assert log.index("===== first") < log.index("to err") < log.index("===== second") < log.index("Traceback")
    assert "to out" in log
    assert capfd.readouterr() == ("", "")


def test_a_job_knows_its_deadline(tmp_path):
    outcome = do(Job("some", 1, lambda deadline, keep: {"left": deadline - time.monotonic()}), 7, tmp_path)
    assert 5 < outcome.result["left"] <= 7


def test_what_a_job_starts_ends_with_it(tmp_path):
    def leave(deadline, keep):
        child = subprocess.Popen(["sleep", "60"])
        return {"child": child.pid}

    child = do(Job("some", 1, leave), 10, tmp_path).result["child"]
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and os.path.exists(f"/proc/{child}") and "sleep" in command_of(child):
        time.sleep(0.05)
    assert "sleep" not in command_of(child)


def command_of(process: int) -> str:
    try:
        with open(f"/proc/{process}/cmdline") as file:
            return file.read()
    except OSError:
        return ""


def test_whoever_ends_us_ends_the_job(tmp_path):
    program = (
        "import os, pathlib, time\n"
        "from benchmarks.jobs import Job, do\n"
        f"folder = pathlib.Path({str(tmp_path)!r})\n"
        "def hang(deadline, keep):\n"
        "    (folder / 'pid').write_text(str(os.getpid()))\n"
        "    time.sleep(60)\n"
        "do(Job('some', 1, hang), 50, folder)\n"
    )
    root = str(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
    ours = subprocess.Popen([sys.executable, "-c", program], cwd=root, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and not (tmp_path / "pid").is_file():
        time.sleep(0.05)
    time.sleep(0.2)
    child = int((tmp_path / "pid").read_text())
    ours.send_signal(signal.SIGTERM)
    assert ours.wait(10) != 0
    assert not command_of(child)
