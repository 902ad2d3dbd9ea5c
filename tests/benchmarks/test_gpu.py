"""All that wants a GPU, rehearsed on a CPU from end to end by the command itself."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import gpu
from benchmarks.gpu import BENCHMARKS, TESTS, Session, main
from benchmarks.gpu_tests import Outcomes
from benchmarks.jobs import FailedError, Job

ROOT = Path(gpu.__file__).parents[1]


def call(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "benchmarks/gpu.py", "--output", str(folder), *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory) -> Path:
    """A whole one; it has more time here than it needs, as other tests run beside it."""
    folder = tmp_path_factory.mktemp("gpu")
    done = call(folder, "--quick", "--minutes", "9")
    assert done.returncode == 0, done.stdout + done.stderr + (folder / "log.txt").read_text()[-3000:]
    return folder


def test_everything_is_done_in_a_rehearsal(rehearsal):
    jobs = json.loads((rehearsal / "results.json").read_text())["jobs"]
    assert [*jobs] == ["machine", *(f"test_{name}" for name in TESTS), *BENCHMARKS, "trace", "training"]
    assert {job["state"] for job in jobs.values()} == {"done"}
    for name in TESTS:
        states = [*jobs[f"test_{name}"]["result"]["tests"].values()]
        assert "passed" in states
        assert "failed" not in states
    for name in BENCHMARKS:
        assert all(row["value"] > 0 for row in jobs[name]["result"]["rows"])
    assert jobs["trace"]["result"]["steps"][0]["busy"] > 0
    training = jobs["training"]["result"]
    assert training["finished"]
    assert all((rehearsal / "training" / piece["file"]).is_file() for piece in training["model"]["pieces"])
    files = {path.name for path in rehearsal.iterdir() if path.is_file()}
    assert files == {"results.json", "log.txt", "trace.json.gz", "lock"}


def test_what_was_done_is_not_done_again(rehearsal, capsys):
    before = json.loads((rehearsal / "results.json").read_text())["jobs"]
    assert main(["--quick", "--output", str(rehearsal)]) == 0
    printed = [line for line in capsys.readouterr().out.splitlines() if not line.startswith("without")]
    assert len(printed) == 1  # the machine is looked at each time
    assert printed[0].startswith("machine")
    after = json.loads((rehearsal / "results.json").read_text())["jobs"]
    assert {name: job for name, job in after.items() if name != "machine"} == {
        name: job for name, job in before.items() if name != "machine"
    }


def test_the_report_has_all_tables(rehearsal, capsys):
    assert main(["--output", str(rehearsal), "--report"]) == 0
    report = capsys.readouterr().out
    for text in ("tests/gpu/test_steps.py", "**Decoder training step**", "GPU busy", "photos_per_second"):
        assert text in report


@pytest.fixture
def session(tmp_path) -> Session:
    import torch

    return Session(tmp_path, torch.device("cpu"), True, None, None)


def job(name, work=lambda deadline, keep: {}, **options) -> Job:
    return Job(name, 1, work, at_least=0, **options)


def test_a_second_call_goes_on_where_the_first_was_cut(session, monkeypatch, capsys):
    calls = []

    def failing(deadline, keep):
        raise ValueError("once")

    jobs = [job("machine"), job("first"), job("second", failing), job("third")]
    monkeypatch.setattr(session, "jobs", lambda: jobs)
    assert gpu.run(session, 1) == 1
    assert "second          failed" in capsys.readouterr().out
    again = Session(session.output, session.device, True, None, None)
    monkeypatch.setattr(again, "jobs", lambda: [*jobs[:2], job("second"), jobs[3]])
    assert gpu.run(again, 1) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["machine", "second"]
    assert not calls


def test_time_is_shared_and_what_is_missing_is_told(session, monkeypatch, capsys):
    session.quick = False
    jobs = [job("machine"), job("missing", missing="no --photos FILE"), job("long"), Job("late", 1, None, at_least=999)]
    monkeypatch.setattr(session, "jobs", lambda: jobs)
    assert gpu.run(session, 1) == 1
    lines = capsys.readouterr().out.splitlines()
    assert "missing         left out: no --photos FILE" in lines
    assert "late            left out: no time" in lines
    assert any(line.startswith("long") and line.endswith("s of 27") for line in lines)  # half of what is left


def test_results_of_another_gpu_are_not_mixed(session, monkeypatch):
    monkeypatch.setattr(gpu.machine, "describe", lambda device, threads: {"gpu": "NVIDIA B"})
    session.results["jobs"]["machine"] = {"state": "done", "seconds": 1.0, "result": {"machine": {"gpu": "NVIDIA A"}}}
    with pytest.raises(FailedError, match="holds results of NVIDIA A, this is NVIDIA B: choose another --output"):
        session.describe(time.monotonic() + 9, lambda result: None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "there is no GPU here; --quick rehearses on a CPU"),
        (["--quick", "--photos", "none.zip"], "none.zip: no such file"),
        (["--quick", "--minutes", "0"], "--minutes 0.0: give a number of minutes, more than none"),
        (["--quick", "--minutes", "inf"], "--minutes inf: give a number"),
        (["--report"], "no results.json there"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(tmp_path, capsys, options, message, monkeypatch):
    monkeypatch.setattr(gpu, "is_a_gpu_there", lambda: False)
    assert main(["--output", str(tmp_path / "new"), *options]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("content", ["", "[]", '{"jobs": {}}', '{"quick": true, "jobs": {"trace": {}}}', "\udcff"])
def test_damaged_results_are_named(tmp_path, capsys, content):
    path = tmp_path / "results.json"
    path.write_text(content, errors="surrogateescape")
    for options in (["--quick"], ["--report"]):
        assert main(["--output", str(tmp_path), *options]) == 2
        assert f"{path}: damaged" in capsys.readouterr().err
    assert path.read_text(errors="surrogateescape") == content


def test_a_rehearsal_is_not_gone_on_with_as_if_it_were_none(session, capsys, monkeypatch):
    session.results["quick"] = False
    session.keep(job("machine"), gpu.Outcome("done", 1.0, {}))
    assert main(["--output", str(session.output), "--quick"]) == 2
    assert "holds results that are no rehearsal's: choose another --output" in capsys.readouterr().err


def test_two_calls_do_not_write_into_one_folder(session, capsys):
    with gpu.locked(session.output):
        assert main(["--output", str(session.output), "--quick"]) == 2
    assert str(session.output) in capsys.readouterr().err


def test_what_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr(gpu, "find_spec", lambda name: None if name in ("entmax", "triton") else object())
    monkeypatch.setattr(gpu.shutil, "which", lambda name: None)
    lines = []
    gpu.say_what_is_missing(lines.append)
    assert [line.split(":")[0] for line in lines] == ["without triton", "without entmax", "without a C++ compiler"]


# ------------------------------------------------------------------------------------------ tests within it

SOME_TESTS = """
import time
import pytest
def test_passes(): time.sleep(0.2)
def test_fails(): assert 1 == 2, "not equal"
@pytest.fixture
def broken(): raise ValueError("no fixture")
def test_has_no_fixture(broken): pass
def test_is_skipped(): pytest.skip("needs a GPU")
def test_comes_last(): pass
"""


def run_tests(folder: Path, before: dict[str, str], seconds: float) -> tuple[Outcomes, list[dict]]:
    kept: list[dict] = []
    outcomes = Outcomes(before, lambda result: kept.append(json.loads(json.dumps(result))), time.monotonic() + seconds)
    file = folder / "test_some.py"
    file.write_text(SOME_TESTS)
    options = [
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
        "--override-ini=addopts=--import-mode=importlib",
        f"--rootdir={folder}",
        "-q",
    ]
    pytest.main([str(file), *options], [outcomes])
    return outcomes, kept


def test_outcomes_are_kept_as_they_come(tmp_path, capsys):
    outcomes, kept = run_tests(tmp_path, {}, 60)
    assert outcomes.states == {
        "test_passes": "passed",
        "test_fails": "failed",
        "test_has_no_fixture": "failed",
        "test_is_skipped": "skipped",
        "test_comes_last": "passed",
    }
    assert outcomes.reasons["test_fails"].startswith("AssertionError: not equal")
    assert [len(result["tests"]) for result in kept if result["tests"]][0] == 1
    assert not outcomes.is_late


def test_passed_tests_are_left_out_and_none_begins_after_the_deadline(tmp_path, capsys):
    outcomes, _ = run_tests(tmp_path, {"test_passes": "passed", "test_fails": "failed"}, 0)
    assert outcomes.states == {"test_passes": "passed"}
    assert outcomes.is_late
    outcomes, _ = run_tests(tmp_path, {"test_passes": "passed", "test_comes_last": "passed"}, 60)
    assert list(outcomes.states) == [
        "test_passes",
        "test_comes_last",
        "test_fails",
        "test_has_no_fixture",
        "test_is_skipped",
    ]
