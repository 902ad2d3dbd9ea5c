"""`captioner caption`: a line, an object or a row per photo, a line on stderr per broken one."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import fsspec
import pytest

import captioner
from captioner.cli.main import main
from captioner.decoding import BeamSearch
from captioner.files import held
from captioner.predictors import Captioner, load

SCRIPTS = Path(captioner.__file__).parents[1] / "scripts"


def expected_reasons(album, broken_names):
    return sorted(f"captioner: {album / name}: {reason}" for name, reason in broken_names.items())


def assert_broken_are_named(err, album, broken_names):
    assert len(err) == len(broken_names)
    for line, start in zip(sorted(err), expected_reasons(album, broken_names), strict=True):
        assert line.startswith(start)


def test_a_folder_of_everything(run, album, good_names, broken_names):
    status, out, err = run(album)
    assert status == 1
    assert [line.partition(": ")[0] for line in out] == sorted(str(album / name) for name in good_names)
    assert all(line.partition(": ")[2] for line in out)
    assert_broken_are_named(err, album, broken_names)


def test_only_good_photos(run, album, good_names):
    status, out, err = run(*(album / name for name in good_names))
    assert (status, len(out), err) == (0, 12, [])
    assert [line.partition(": ")[0] for line in out] == [str(album / name) for name in good_names]  # as given


def test_jsonl(run, album, good_names, broken_names, tmp_path, model_file):
    status, out, err = run(album, "--output", tmp_path / "new folder" / "out.jsonl")
    assert (status, out) == (1, [])
    assert_broken_are_named(err, album, broken_names)
    records = [json.loads(line) for line in (tmp_path / "new folder" / "out.jsonl").read_text("utf-8").splitlines()]
    assert [list(record) for record in records] == [["image", "caption", "words", "log_prob"]] * 12
    assert [record["image"] for record in records] == sorted(str(album / name) for name in good_names)
    captions = load(model_file, "cpu").caption([record["image"] for record in records])
    for record, caption in zip(records, captions, strict=True):
        assert (record["caption"], record["words"]) == (caption.text, list(caption.words))
        assert record["log_prob"] == pytest.approx(caption.log_prob, abs=1e-4)


def test_csv(run, album, tmp_path):
    run(album, "--output", tmp_path / "out.jsonl")
    status, *_ = run(album, "--output", tmp_path / "out.CSV")
    assert status == 1
    with open(tmp_path / "out.CSV", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    records = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text("utf-8").splitlines()]
    assert [row["image"] for row in rows] == [record["image"] for record in records]
    assert [row["caption"] for row in rows] == [record["caption"] for record in records]
    assert [row["words"].split() for row in rows] == [record["words"] for record in records]
    assert [float(row["log_prob"]) for row in rows] == [record["log_prob"] for record in records]


@pytest.mark.parametrize("batch_size", [1, 5])
def test_batch_size_changes_no_caption(run, album, batch_size):
    assert run(album, "--batch-size", batch_size) == run(album, "--batch-size", 16)


def test_beam_size_is_used(run, album, good_names, model_file):
    paths = [str(album / name) for name in good_names]
    for beam_size in (1, 7):
        captions = load(model_file, "cpu").caption(paths, BeamSearch(beam_size))
        _, out, _ = run(*paths, "--beam-size", beam_size)
        assert out == [f"{path}: {caption.text}" for path, caption in zip(paths, captions, strict=True)]


def test_other_suffixes_stop_before_any_work(run, album, tmp_path, monkeypatch):
    monkeypatch.setattr("captioner.data.images.find_images", lambda paths: pytest.fail("it began"))
    for name in ("out.json", "out", "out.txt", "jsonl"):
        status, out, err = run(album, "--output", tmp_path / name)
        assert (status, out) == (2, [])
        assert err == [f"captioner: error: --output {tmp_path / name}: the file's name must end in .jsonl or .csv"]
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_is_there_is_replaced(run, album, tmp_path):
    (tmp_path / "out.jsonl").write_text("old\n" * 99)
    run(album / "grey.png", "--output", tmp_path / "out.jsonl")
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 1


def test_an_output_that_cannot_be_written(run, album, tmp_path):
    (tmp_path / "out.csv").mkdir()
    (tmp_path / "file").touch()
    for output in (tmp_path / "out.csv", tmp_path / "file" / "out.csv"):
        status, out, err = run(album / "grey.png", "--output", output)
        assert (status, out, len(err)) == (2, [], 1)
        assert err[0].startswith("captioner: error: ")
        assert str(tmp_path) in err[0]


def test_a_bad_model_leaves_the_old_output(run, album, tmp_path, capsys):
    (tmp_path / "out.jsonl").write_text("old")
    (tmp_path / "m.safetensors").write_bytes(b"x" * 99)
    arguments = [str(album / "grey.png"), "--output", str(tmp_path / "out.jsonl")]
    for model, message in (("m.safetensors", "damaged"), ("gone.safetensors", "no such model file")):
        assert main(["caption", *arguments, "--model", str(tmp_path / model)]) == 2
        err = capsys.readouterr().err.splitlines()
        assert len(err) == 1
        assert err[0].startswith(f"captioner: error: {tmp_path / model}: {message}")
    assert (tmp_path / "out.jsonl").read_text() == "old"


def test_a_bad_device(run, album):
    status, out, err = run(album / "grey.png", "--device", "gpu")
    assert (status, out, len(err)) == (2, [], 1)
    assert "device 'gpu' cannot be used here" in err[0]


@pytest.mark.parametrize(("end", "expected"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interruption_keeps_what_is_done(run, album, tmp_path, monkeypatch, end, expected):
    stream = Captioner.stream

    def interrupted(self, *arguments, **options):
        for number, result in enumerate(stream(self, *arguments, **options)):
            if number == 3:
                os.kill(os.getpid(), end)
            yield result

    monkeypatch.setattr(Captioner, "stream", interrupted)
    try:
        status, _, err = run(album, "--output", tmp_path / "out.jsonl")
        assert err[-1] == "captioner: interrupted"
    except SystemExit as stop:
        status = stop.code
    assert status == expected
    assert 0 < len((tmp_path / "out.jsonl").read_text().splitlines()) <= 3
    assert list(tmp_path.iterdir()) == [tmp_path / "out.jsonl"]


def test_the_script(album, broken_names, good_names, model_file):
    """The same in a process of its own, on a terminal that knows no umlauts."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "ascii"}
    environment["PYTHONPATH"] = str(SCRIPTS.parent)
    command = [sys.executable, SCRIPTS / "caption.py", album, "--model", model_file, "--device", "cpu"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=album.parent)
    assert done.returncode == 1
    assert len(done.stdout.splitlines()) == len(good_names)
    assert len(done.stderr.splitlines()) == len(broken_names)


def test_a_reader_that_leaves_early(run, album, monkeypatch):
    source, sink = os.pipe()
    os.close(source)
    with os.fdopen(sink, "w") as broken_pipe:
        monkeypatch.setattr(sys, "stdout", broken_pipe)
        status, _, err = run(album / "grey.png")
    assert (status, err) == (1, [])


def test_two_runs_into_one_file(run, album, tmp_path):
    """The second one is told, and neither's captions are lost."""
    with held(tmp_path / "out.jsonl"):
        status, out, err = run(album / "grey.png", "--output", tmp_path / "out.jsonl")
        reason = "another process is writing to it; wait until it has finished"
        assert (status, out, err) == (2, [], [f"captioner: error: {tmp_path / 'out.jsonl'}: {reason}"])
        assert run(album / "grey.png", "--output", tmp_path / "other.jsonl")[0] == 0
    assert run(album / "grey.png", "--output", tmp_path / "out.jsonl")[0] == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other.jsonl", "out.jsonl"]


def test_an_output_folder_that_vanishes(run, album, good_names, tmp_path, monkeypatch):
    folder, stream, seen = tmp_path / "out", Captioner.stream, []

    def vanishing(self, *arguments, **options):
        for number, result in enumerate(stream(self, *arguments, **options)):
            if number == 1:
                shutil.rmtree(folder)
            seen.append(number)
            yield result

    monkeypatch.setattr(Captioner, "stream", vanishing)
    status, _, err = run(*(album / name for name in good_names), "--output", folder / "out.csv")
    reason = "the folder was removed while a command was writing to it: what it held is lost"
    assert (status, err) == (2, [f"captioner: error: {folder}: {reason}"])
    assert seen == [0, 1]
    assert not folder.exists()


def test_a_model_of_no_numbers_leaves_the_old_output(album, tmp_path, broken_model, capsys):
    (tmp_path / "out.jsonl").write_text("old")
    arguments = ["caption", str(album / "grey.png"), "--model", str(broken_model), "--device", "cpu"]
    for more in ([], ["--output", str(tmp_path / "out.jsonl")], ["--search", "sample"], ["--search", "greedy"]):
        assert main([*arguments, *more]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith(
            f"captioner: error: {broken_model}: gives a caption with the log-probability nan: its weights"
        )
        assert len(err.splitlines()) == 1
    assert (tmp_path / "out.jsonl").read_text() == "old"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        *[(("--length-penalty", value), "length_penalty=") for value in ("nan", "inf", "-1", "1e308")],
        *[(("--search", "diverse", "--diversity", value), "diversity=") for value in ("nan", "inf", "-1")],
        *[(("--search", "sample", "--temperature", value), "temperature=") for value in ("nan", "inf", "0")],
        *[(("--search", "sample", "--top-p", value), "top_p=") for value in ("nan", "0", "1.1")],
        (("--search", "sample", "--seed", 10**20), "seed=100000000000000000000 must lie between"),
        (("--search", "sample", "--num-best", 10**6), "num_samples=1000000 must be 1 or more, and 10,000 at most"),
        (("--beam-size", 10**6), "beam_size=1000000 must be 1 or more, and 10,000 at most"),
        (("--max-length", 10**6), "max_length=1000000 must be 100,000 at most"),
        (("--min-length", -5), "min_length=-5 and max_length=30 leave no caption"),
        (("--no-repeat", -1), "no_repeat=-1 must be 0"),
        (("--require", "\udcff"), "required '\\udcff' is no text, but bytes or half a character: write it in UTF-8"),
        (("--forbid", "a \ud800"), "forbidden 'a \\ud800' is no text"),
        (("--no-ending", "\udcff"), "bad_endings '\\udcff' is no text"),
        (("--output", "\ud800.csv"), "'\\ud800.csv': no file can be called so"),
    ],
)
def test_arguments_out_of_range(run, album, arguments, reason):
    status, out, err = run(album / "grey.png", *arguments)
    assert (status, out, len(err)) == (2, [], 1)
    assert err[0].startswith("captioner: error: ")
    assert reason in err[0]


def test_photos_that_no_suffix_names_and_those_not_read(run, album, tmp_path):
    shutil.copy(album / "grey.png", tmp_path / "grey")
    for name, head in (
        ("a.heic", b""),
        ("b.jxl", b"\0\0\0\x0cJXL \r\n\x87\n"),
        ("notes.txt", b"text"),
        ("c.xmp", b"<x>"),
    ):
        (tmp_path / name).write_bytes(head)
    status, out, err = run(tmp_path)
    assert status == 1
    assert [line.partition(": ")[0] for line in out] == [str(tmp_path / "grey")]
    assert [line.split(": ")[1] for line in err] == [str(tmp_path / name) for name in ("a.heic", "b.jxl")]


def test_photos_at_urls(run, album):
    fsspec.filesystem("memory").pipe("/photos/grey.png", (album / "grey.png").read_bytes())
    status, out, err = run("memory://photos/grey.png", f"file://{album / 'grey.png'}", "memory://photos/none.png")
    assert status == 1
    assert [line.partition(".png: ")[0] for line in out] == ["memory://photos/grey", f"file://{album / 'grey'}"]
    assert len({line.rpartition(": ")[2] for line in out}) == 1
    assert err == ["captioner: memory://photos/none.png: there is no such file"]
