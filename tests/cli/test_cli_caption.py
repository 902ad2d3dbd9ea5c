"""`captioner caption`: a line, an object or a row per photo, a line on stderr per broken one."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

import captioner
from captioner.cli.main import main
from captioner.decoding import BeamSearch
from captioner.predictor import Captioner, load

SCRIPTS = Path(captioner.__file__).parents[1] / "scripts"


@pytest.fixture
def run(model_file, capsys):
    """Runs the command; its exit status, lines of stdout and lines of stderr."""

    def run(*arguments):
        status = main(["caption", "--model", str(model_file), "--device", "cpu", *map(str, arguments)])
        out, err = capsys.readouterr()
        return status, out.splitlines(), err.splitlines()

    return run


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


def test_globs_and_order(run, album, monkeypatch):
    monkeypatch.chdir(album)
    status, out, err = run("t*.bmp", "de eper/*.tiff", "grey.png", "./tiny.bmp", "**/*.webp")
    assert (status, err) == (0, [])
    assert [line.partition(": ")[0] for line in out] == ["tiny.bmp", "de eper/plain.tiff", "grey.png", "web.webp"]


def test_paths_that_give_nothing(run, album, tmp_path):
    (tmp_path / "none").mkdir()
    status, out, err = run(tmp_path / "none", tmp_path / "*.jpg", tmp_path / "gone.jpg", album / "grey.png")
    assert (status, len(out)) == (1, 1)
    assert err == [
        f"captioner: {tmp_path}/none: no image in this folder",
        f"captioner: {tmp_path}/*.jpg: no image matches this pattern",
        f"captioner: {tmp_path}/gone.jpg: no such file or folder",
    ]
    assert run(tmp_path / "gone.jpg")[:2] == (1, [])


def test_long_and_strange_names_survive(run, album, tmp_path):
    folder = tmp_path / ("x" * 150 + " [bold]y[red]")
    folder.mkdir()
    good = folder / ("é" * 60 + " %s {} \\n " + "z" * 60 + ".png")
    assert len(str(good)) > 300
    shutil.copy(album / "grey.png", good)
    shutil.copy(album / "half.png", good.with_suffix(".PNG"))
    status, out, err = run(folder)
    assert status == 1
    assert len(out) == len(err) == 1
    assert out[0].startswith(f"{good}: ")
    assert err[0].startswith(f"captioner: {good.with_suffix('.PNG')}: damaged")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_names_that_are_no_text(run, album, tmp_path):
    for name in (b"\xff.png", b"two\nlines.png"):
        shutil.copy(album / "grey.png", os.fsencode(tmp_path) + b"/" + name)
        shutil.copy(album / "half.png", os.fsencode(tmp_path) + b"/broken " + name)
    status, out, err = run(tmp_path)
    assert (status, len(out), len(err)) == (1, 2, 2)
    assert any(r"\udcff.png" in line for line in out)
    assert any(r"two\nlines.png" in line for line in out)
    status, *_ = run(tmp_path, "--output", tmp_path / "out.jsonl")
    found = [json.loads(line)["image"] for line in (tmp_path / "out.jsonl").read_text("utf-8").splitlines()]
    assert sorted(os.fsencode(Path(path).name) for path in found) == [b"two\nlines.png", b"\xff.png"]


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


def test_an_interruption_keeps_what_is_done(run, album, tmp_path, monkeypatch):
    stream = Captioner.stream

    def interrupted(self, *arguments, **options):
        for number, result in enumerate(stream(self, *arguments, **options)):
            if number == 3:
                raise KeyboardInterrupt
            yield result

    monkeypatch.setattr(Captioner, "stream", interrupted)
    status, out, err = run(album, "--output", tmp_path / "out.jsonl")
    assert (status, out) == (130, [])
    assert err[-1] == "captioner: interrupted"
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) + len(err) - 1 == 3


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


# ------------------------------------------------------------------------------------------ bulk


@pytest.fixture
def bulk(run, monkeypatch):
    """Runs the command in the way of `--engine ray`, with its workers in this process."""
    pytest.importorskip("ray")
    bulk = pytest.importorskip("captioner.bulk")

    def in_process(plan, job, missing, workers, prepare):
        worker = bulk.Worker(plan, job, prepare=prepare)
        return (bulk.answer(worker(part._asdict())) for part in missing)

    monkeypatch.setattr(bulk, "run_parts", in_process)
    monkeypatch.setattr(bulk, "ray_cluster", lambda address: contextlib.nullcontext())
    return lambda *arguments: run(*arguments, "--engine", "ray", "--format", "jsonl")


def records_in(folder):
    lines = [line for path in sorted(folder.glob("part-*")) for line in path.read_text("utf-8").splitlines()]
    return {record["image"]: record for record in map(json.loads, lines)}


def test_bulk_rows_are_those_of_the_plain_command(bulk, run, album, tmp_path, broken_names):
    run(album, "--output", tmp_path / "plain.jsonl")
    status, out, err = bulk(album, "--output", tmp_path / "out", "--part-size", 5)
    assert (status, out) == (1, [])
    starting, last = err
    assert starting == "captioner: starting Ray; parts to do: 4"
    assert last.startswith("captioner: 16 photos, ")
    assert last.endswith("per second; 4 could not be read; the parts are in " + str(tmp_path / "out"))
    found = records_in(tmp_path / "out")
    good = {name: record for name, record in found.items() if record.pop("error") is None}
    for line in (tmp_path / "plain.jsonl").read_text("utf-8").splitlines():
        record = json.loads(line)
        other = good.pop(record["image"])
        assert other | {"log_prob": 0} == record | {"log_prob": 0}
        assert other["log_prob"] == pytest.approx(record["log_prob"], abs=1e-4)
    assert not good


def test_bulk_goes_on_and_is_done_once(bulk, album, tmp_path, broken_names):
    out = tmp_path / "out"
    bulk(album, "--output", out, "--part-size", 5)
    whole = records_in(out)
    (out / "part-000001.jsonl").unlink()
    written = {path: path.stat().st_mtime_ns for path in out.glob("part-*")}
    status, _, err = bulk(album, "--output", out)
    assert status == 1
    assert err[1].startswith("captioner: 5 photos, ")
    assert "4 could not be read (3 of 4 parts were done before)" in err[1]
    assert records_in(out).keys() == whole.keys()
    assert {path: path.stat().st_mtime_ns for path in written} == written
    status, _, err = bulk(album, "--output", out)
    assert (status, err[0].partition(",")[0]) == (1, "captioner: 0 photos")


def test_bulk_retries_what_could_not_be_read(bulk, album, tmp_path):
    (tmp_path / "in").mkdir()
    late = tmp_path / "in" / "b.png"
    shutil.copy(album / "grey.png", tmp_path / "in" / "a.png")
    late.touch()
    arguments = (tmp_path / "in", "--output", tmp_path / "out", "--part-size", 1)
    assert bulk(*arguments)[0] == 1
    shutil.copy(album / "grey.png", late)
    assert bulk(*arguments)[0] == 1
    assert bulk(*arguments, "--retry-errors")[0] == 0
    assert records_in(tmp_path / "out")[str(late)]["error"] is None


def test_bulk_says_what_was_added(bulk, album, tmp_path):
    bulk(album / "grey.png", "--output", tmp_path / "out")
    status, _, err = bulk(album / "grey.png", album / "tiny.bmp", "--output", tmp_path / "out")
    assert status == 1
    assert err[0].startswith(f"captioner: {tmp_path}/out: 1 photos (or shards) are not in its plan")
    assert len(records_in(tmp_path / "out")) == 1


def test_bulk_refuses_other_settings(bulk, album, tmp_path):
    bulk(album / "grey.png", "--output", tmp_path / "out")
    status, _, err = bulk(album / "grey.png", "--output", tmp_path / "out", "--beam-size", 3)
    assert (status, len(err)) == (2, 1)
    assert "begun with other settings: search was 'BeamSearch(beam_size=5" in err[0]


def test_bulk_stops_where_a_worker_fails(bulk, album, tmp_path, model_file):
    (tmp_path / "m.safetensors").write_bytes(b"x" * 99)
    status, _, err = bulk(album / "grey.png", "--output", tmp_path / "out", "--model", tmp_path / "m.safetensors")
    assert status == 2
    assert err[-1].startswith(f"captioner: error: part 0: {tmp_path}/m.safetensors: damaged")


def test_bulk_without_ray(run, album, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    status, _, err = run(album, "--engine", "ray", "--output", tmp_path / "out")
    assert (status, err) == (
        2,
        ["captioner: error: --engine ray needs ray and pyarrow: pip install 'ray[data]' pyarrow"],
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--engine", "ray"], "--engine ray needs --output DIR"),
        (["--engine", "ray", "--output", "x", "--text"], "--text belongs to --engine local"),
        (["--workers", "2"], "--workers belongs to --engine ray"),
        (["--engine", "ray", "--output", "x.jsonl"], "with --engine ray it is a folder"),
        (["--engine", "ray", "--output", "x", "--device", "cuda:1"], "each worker has a GPU of its own"),
        (["--retry-errors"], "--retry-errors belongs to --engine ray"),
        (["--part-size", "2"], "--part-size belongs to --engine ray"),
    ],
)
def test_bulk_arguments(run, album, arguments, message):
    status, _, err = run(album, *arguments)
    assert status == 2
    assert message in err[0]


def test_shards_by_the_plain_command(run, album, tmp_path):
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        for name in ("grey.png", "half.png"):
            tar.add(album / name, name)
    status, out, err = run(tmp_path / "s.tar", album / "tiny.bmp", "--output", tmp_path / "out.jsonl")
    assert (status, out, len(err)) == (1, [], 1)
    assert err[0].startswith(f"captioner: {tmp_path}/s.tar/half.png: damaged")
    found = [json.loads(line)["image"] for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert found == [str(album / "tiny.bmp"), f"{tmp_path}/s.tar/grey.png"]


def test_bulk_writes_into_no_folder_of_others(bulk, album, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    status, out, err = bulk(album, "--output", tmp_path)
    assert (status, out) == (2, [])
    assert "holds other files" in err[0]
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_lists_of_photos_are_for_the_other_engine(run, tmp_path):
    status, out, err = run(tmp_path / "list.parquet")
    assert (status, out) == (2, [])
    assert err == [
        f"captioner: error: {tmp_path}/list.parquet: lists of photos in parquet files are read with --engine ray"
    ]
