"""Bulk captioning by the command."""

from __future__ import annotations

import contextlib
import json
import shutil

import pytest


@pytest.fixture
def bulk(run, monkeypatch):
    """Runs the command in the way of `--engine ray`, with its workers in this process."""
    pytest.importorskip("ray")
    bulk = pytest.importorskip("captioner.bulk")

    def in_process(plan, job, missing, workers, prepare):
        worker = bulk.Worker(plan, job, prepare=prepare)
        return (bulk.answer(worker(chunk._asdict())) for chunk in missing)

    monkeypatch.setattr(bulk, "run_chunks", in_process)
    monkeypatch.setattr(bulk, "ray_cluster", lambda address: contextlib.nullcontext())
    return lambda *arguments: run(*arguments, "--engine", "ray", "--format", "jsonl")


def records_in(folder):
    lines = [line for path in sorted(folder.glob("part-*")) for line in path.read_text("utf-8").splitlines()]
    return {record["image"]: record for record in map(json.loads, lines)}


def test_bulk_rows_are_those_of_the_plain_command(bulk, run, album, tmp_path, broken_names):
    run(album, "--output", tmp_path / "plain.jsonl")
    status, out, err = bulk(album, "--output", tmp_path / "out", "--chunk-size", 5)
    assert (status, out) == (1, [])
    starting, last = err
    assert starting == "captioner: starting Ray; chunks to do: 4"
    assert last.startswith("captioner: 16 photos, ")
    assert last.endswith("per second; 4 could not be read; the chunks are in " + str(tmp_path / "out"))
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
    bulk(album, "--output", out, "--chunk-size", 5)
    whole = records_in(out)
    (out / "part-000001.jsonl").unlink()
    written = {path: path.stat().st_mtime_ns for path in out.glob("part-*")}
    status, _, err = bulk(album, "--output", out)
    assert status == 1
    assert err[1].startswith("captioner: 5 photos, ")
    assert "4 could not be read (3 of 4 chunks were done before)" in err[1]
    assert records_in(out).keys() == whole.keys()
    assert {path: path.stat().st_mtime_ns for path in written} == written
    status, _, err = bulk(album, "--output", out)
    assert (status, err[0].partition(",")[0]) == (1, "captioner: 0 photos")


def test_bulk_retries_what_could_not_be_read(bulk, album, tmp_path):
    (tmp_path / "in").mkdir()
    late = tmp_path / "in" / "b.png"
    shutil.copy(album / "grey.png", tmp_path / "in" / "a.png")
    late.touch()
    arguments = (tmp_path / "in", "--output", tmp_path / "out", "--chunk-size", 1)
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
    assert err[-1].startswith(f"captioner: error: chunk 0: {tmp_path}/m.safetensors: damaged")


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
        (["--chunk-size", "2"], "--chunk-size belongs to --engine ray"),
    ],
)
def test_bulk_arguments(run, album, arguments, message):
    status, _, err = run(album, *arguments)
    assert status == 2
    assert message in err[0]


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
