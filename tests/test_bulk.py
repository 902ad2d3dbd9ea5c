"""Bulk captioning: every image is in one part, a part is whole or absent, and a killed run goes on where it stopped."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

import captioner
from captioner.bulk import (
    MAX_TRIES,
    Done,
    ImageList,
    Job,
    Plan,
    PlanError,
    Share,
    TableRows,
    TarShard,
    Worker,
    done_before,
    find_work,
    look_up,
    record,
    share_out,
    write_part,
)
from captioner.data.images import ImageError
from captioner.decoding import BeamSearch, GreedySearch
from captioner.predictor import Alternative, Caption, Wording, load

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


@pytest.fixture
def job(model_file) -> Job:
    return Job(str(model_file), GreedySearch(), Wording(), device="cpu")


@pytest.fixture
def make_plan(tmp_path, job):
    """Plans work in a folder of its own."""

    def make(work, job=job, name="out") -> Plan:
        return Plan.make(tmp_path / name, job.settings(), work)

    return make


def caption_all(plan: Plan, job: Job) -> list[Done]:
    worker = Worker(plan, job)
    return [Done(**worker(part._asdict())) for part in plan.parts if part.number not in done_before(plan)]


def rows_of(plan: Plan) -> list[dict]:
    """All rows, in the order of the plan."""
    if plan.settings["format"] == "parquet":
        return pq.read_table(plan.folder).to_pylist()
    lines = [line for path in sorted(plan.folder.glob("part-*")) for line in path.read_text("utf-8").splitlines()]
    return [json.loads(line) for line in lines]


def write_table(file: Path, **columns: list) -> str:
    pq.write_table(pa.table(columns), file, row_group_size=4)
    return str(file)


# ------------------------------------------------------------------------------------------ what a part is made of


@pytest.mark.parametrize("part_size", [1, 3, 5, 100])
def test_every_image_is_in_one_part(album, tmp_path, part_size, make_plan):
    paths = [f"{number}.jpg" for number in range(11)]
    table = write_table(tmp_path / "list.parquet", size=list(range(11)), path=paths)
    shard = str(tmp_path / "a.tar")
    Path(shard).touch()
    work, problems = find_work([str(album), table, shard, shard], part_size)
    assert problems == []
    plan = make_plan(work)
    assert list(plan.work()) == work
    found = [name for part in work if isinstance(part, ImageList | TableRows) for name, _ in part.open("/r")]
    assert found == [*sorted(str(path) for path in album.rglob("*.*") if path.suffix != ".txt"), *paths]
    assert work[-1] == TarShard(shard)
    assert sum(part.size for part in plan.parts) == len(found) + 1
    assert max(part.size for part in plan.parts) <= part_size


def test_folders_and_patterns_of_tables_and_shards(tmp_path):
    for name in ("b", "a"):
        write_table(tmp_path / f"{name}.parquet", image=["x.jpg"])
        (tmp_path / f"{name}.tar").touch()
    tables = [TableRows(str(tmp_path / f"{name}.parquet"), "image", 0, 1) for name in "ab"]
    shards = [TarShard(str(tmp_path / f"{name}.tar")) for name in "ab"]
    assert find_work([str(tmp_path)], 9) == (tables, [])
    assert find_work([str(tmp_path / "*.parquet"), str(tmp_path / "{a,b}.tar")], 9) == (tables + shards, [])
    work, problems = find_work([str(tmp_path / "no*.parquet"), str(tmp_path / "no*.tar")], 9)
    assert work == []
    assert [problem.reason for problem in problems] == [
        "no image matches this pattern",
        "no shard matches this pattern",
    ]


def test_tables_that_do_not_do(tmp_path):
    table = write_table(tmp_path / "t.parquet", url=["x"], image=[1])
    with pytest.raises(ValueError, match="the column image holds int64, not paths"):
        find_work([table], 9)
    with pytest.raises(ValueError, match="no column name; there are: url, image"):
        find_work([table], 9, "name")
    assert find_work([table], 9, "url")[0] == [TableRows(table, "url", 0, 1)]
    (tmp_path / "t.parquet").write_text("x")
    with pytest.raises(ValueError, match="not a parquet file"):
        find_work([table], 9)


# ------------------------------------------------------------------------------------------ the plan


def test_a_plan_knows_its_paths_from_anywhere(album, tmp_path, make_plan, job, monkeypatch):
    monkeypatch.chdir(album)
    plan = make_plan(find_work(["grey.png"], 9)[0])
    monkeypatch.chdir(tmp_path)
    caption_all(plan, job)
    assert [(row["image"], row["error"]) for row in rows_of(plan)] == [("grey.png", None)]
    assert plan.num_new(find_work([str(album / "grey.png")], 9)[0]) == 0


def test_what_was_added_is_counted(album, tmp_path, make_plan):
    table = write_table(tmp_path / "t.parquet", image=["x"] * 10)
    plan = make_plan(find_work([str(album / "tiny.bmp"), table], 4)[0])
    assert plan.num_new(find_work([str(album / "tiny.bmp"), table], 3)[0]) == 0
    write_table(tmp_path / "t.parquet", image=["x"] * 15)
    (tmp_path / "s.tar").touch()
    work, _ = find_work([str(album / "grey.png"), str(album / "tiny.bmp"), table, str(tmp_path / "s.tar")], 4)
    assert plan.num_new(work) == 1 + 5 + 1


def test_other_settings_are_refused_by_name(make_plan, job, tmp_path, make_bundle):
    from dataclasses import replace

    from captioner.checkpoint import save_model

    plan = make_plan([])
    plan.require(replace(job, batch_size=3).settings())
    for other, words in (
        (replace(job, search=BeamSearch(3)), "search was 'GreedySearch()' and is 'BeamSearch(beam_size=3"),
        (replace(job, wording=Wording(max_length=9)), "max_length was 30 and is 9 now"),
        (replace(job, num_best=2), "num_best was 1 and is 2 now"),
        (replace(job, format="jsonl"), "format was 'parquet' and is 'jsonl' now"),
    ):
        with pytest.raises(PlanError) as error:
            plan.require(other.settings())
        assert words in str(error.value)
    save_model(make_bundle(hidden_dim=8), tmp_path / "other.safetensors", "float32")
    with pytest.raises(PlanError, match="model was '"):
        plan.require(replace(job, model=str(tmp_path / "other.safetensors")).settings())
    with pytest.raises(ValueError, match="no such model file"):
        replace(job, model="gone").settings()


def test_what_is_no_plan(tmp_path, make_plan):
    with pytest.raises(FileNotFoundError):
        Plan(tmp_path)
    plan = make_plan([])
    for text, message in (
        ("", "not a plan"),
        ("[1]\n", "not a plan"),
        ('{"version": 9, "root": "", "settings": {}}', "later"),
    ):
        (plan.folder / "_plan.jsonl").write_text(text)
        with pytest.raises(PlanError, match=message):
            Plan(plan.folder)


# ------------------------------------------------------------------------------------------ parts


@pytest.mark.parametrize("format", ["parquet", "jsonl"])
def test_rows_of_everything(album, good_names, broken_names, model_file, make_plan, format):
    job = Job(str(model_file), BeamSearch(3), Wording(max_length=8), num_best=2, format=format, device="cpu")
    plan = make_plan(find_work([str(album)], 5)[0], job)
    done = caption_all(plan, job)
    assert sum(part.images for part in done) == 16
    assert sum(part.errors for part in done) == 4
    assert list(done_before(plan).values()) == [part._replace(tries=0) for part in done]
    rows = rows_of(plan)
    assert [row["image"] for row in rows] == sorted(str(album / name) for name in (*good_names, *broken_names))
    good = [row for row in rows if row["error"] is None]
    captions = load(model_file, "cpu").caption(
        [row["image"] for row in good], BeamSearch(3), Wording(max_length=8), 16, 2
    )
    for row, caption in zip(good, captions, strict=True):
        assert (row["caption"], row["words"]) == (caption.text, list(caption.words))
        assert row["log_prob"] == pytest.approx(caption.log_prob, abs=1e-4)
        assert [other["caption"] for other in row["others"] or ()] == [other.text for other in caption.others]
    for row in rows:
        if row["error"] is not None:
            assert row["error"].startswith(broken_names[str(Path(row["image"]).relative_to(album))])
            assert row["caption"] is row["words"] is row["log_prob"] is row["others"] is None


def test_a_cut_shard(album, tmp_path, make_plan, job):
    names = ["CMYK.jpg", "half.png", "grey.png"]
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        for name in names:
            tar.add(album / name, name)
    with tarfile.open(tmp_path / "s.tar") as tar:
        cut = tar.getmember("half.png").offset_data + 10
    (tmp_path / "cut.tar").write_bytes((tmp_path / "s.tar").read_bytes()[:cut])
    shards = [str(tmp_path / name) for name in ("s.tar", "cut.tar")]
    plan = make_plan(map(TarShard, shards))
    assert [part.failure for part in caption_all(plan, job)] == ["", ""]
    found = [(row["image"], row["error"] is None) for row in rows_of(plan)]
    assert found[:3] == [(f"{shards[0]}/{name}", name != "half.png") for name in names]
    assert found[3] == (f"{shards[1]}/CMYK.jpg", True)
    assert found[-1] == (shards[1], False)


@pytest.mark.parametrize("format", ["parquet", "jsonl"])
def test_names_and_captions_of_all_kinds(tmp_path, format):
    path = tmp_path / f"part.{format}"
    caption = Caption('"error": null', ("a",), -1.0, others=(Alternative("b", -2.0),))
    rows = [record("\udcff\n猫", ImageError("x", '"error": null')), record("", caption)]
    rows.append(record("x", ImageError("x", "no \udcff")))
    write_part(path, tmp_path, rows, num_best=2)
    assert look_up(path, 7) == Done(7, images=3, errors=2)


def test_a_part_is_whole_or_absent(tmp_path):
    def rows():
        yield record("a", ImageError("a", "broken"))
        assert list((tmp_path / "work").iterdir())
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_part(tmp_path / "part.parquet", tmp_path / "work", rows())
    assert [path.name for path in tmp_path.rglob("*")] == ["work"]


def test_rows_are_written_in_groups(tmp_path, monkeypatch):
    monkeypatch.setattr("captioner.bulk.parts.ROW_GROUP", 10)
    write_part(tmp_path / "p.parquet", tmp_path, (record(str(n), ImageError("x", "y")) for n in range(25)))
    file = pq.ParquetFile(tmp_path / "p.parquet")
    assert [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)] == [10, 10, 5]
    assert file.read().column("image").to_pylist() == [str(n) for n in range(25)]


# ------------------------------------------------------------------------------------------ workers


def test_a_part_that_is_done_is_left_alone(album, make_plan, job):
    plan = make_plan(find_work([str(album)], 100)[0])
    [first] = caption_all(plan, job)
    written = plan.path(0).stat().st_mtime_ns
    again = Done(**Worker(plan, job)(plan.parts[0]._asdict()))
    assert again == first._replace(tries=0)
    assert plan.path(0).stat().st_mtime_ns == written


def test_what_goes_wrong_is_reported(album, make_plan, job, tmp_path):
    plan = make_plan([ImageList((str(album / "grey.png"),))])
    Path(job.model).rename(tmp_path / "hidden")
    try:
        done = Done(**Worker(plan, job)(plan.parts[0]._asdict()))
    finally:
        (tmp_path / "hidden").rename(job.model)
    assert done.failure.startswith(f"part 0: {job.model}: no such model file")

    def bug():
        raise TypeError("a bug")

    done = Done(**Worker(plan, job, prepare=bug)(plan.parts[0]._asdict()))
    assert done.failure.startswith("part 0: Traceback")
    assert "TypeError: a bug" in done.failure
    assert not plan.path(0).exists()


def test_a_part_that_kills_its_workers_stops_the_run(album, make_plan, job):
    plan = make_plan([ImageList((str(album / "grey.png"),))])
    tries = plan.workshop / "part-000000.tries"
    tries.write_text("node 17\n" * (MAX_TRIES - 1))
    assert caption_all(plan, job) == [Done(0, images=1, tries=MAX_TRIES)]
    plan.path(0).unlink()
    [done] = caption_all(plan, job)
    assert f"{MAX_TRIES} workers died over it, one after another (too little memory?): node 17" in done.failure
    plan.sweep()  # as the next run does
    assert caption_all(plan, job) == [Done(0, images=1, tries=1)]


def test_a_table_that_shrank_stops_the_run(album, tmp_path, make_plan, job):
    table = write_table(tmp_path / "t.parquet", image=[str(album / "grey.png")] * 5)
    plan = make_plan(find_work([table], 9)[0])
    write_table(tmp_path / "t.parquet", image=[str(album / "grey.png")] * 4)
    [done] = caption_all(plan, job)
    assert "has 4 rows, and had more when it was planned" in done.failure


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


# ------------------------------------------------------------------------------------------ with Ray, and killed


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
    command += ["--engine", "ray", "--output", "out", "--part-size", "2", "--workers", "1", "--beam-size", "20"]
    environment = {**os.environ, "PYTHONPATH": str(Path(captioner.__file__).parents[1])}
    options = {"cwd": tmp_path, "env": environment, "stderr": subprocess.PIPE, "text": True}

    def parts() -> set[str]:
        return {path.name for path in out.glob("part-*")}

    def at_work() -> int | None:
        """The process that began the last part, once it has written that down."""
        with contextlib.suppress(ValueError, IndexError, FileNotFoundError):
            return int(max(out.glob(".run/*.tries")).read_text().split()[1])
        return None

    process = subprocess.Popen(command, **options)
    wait_for(lambda: len(parts()) >= 2, process)
    worker = wait_for(at_work, process)
    os.kill(worker, signal.SIGKILL)
    killed_at = len(parts())
    wait_for(lambda: len(parts()) > killed_at + 1, process)
    assert not Path(f"/proc/{worker}").exists()
    process.kill()
    process.communicate()
    before = {name: (out / name).stat().st_mtime_ns for name in parts()}
    assert len(before) < 30
    process = subprocess.run(command, **options)
    assert process.returncode == 1, process.stderr
    assert f"1 could not be read ({len(before)} of 30 parts were done before)" in process.stderr.splitlines()[-1]
    assert {name: (out / name).stat().st_mtime_ns for name in before} == before
    rows = pq.read_table(out).to_pylist()
    assert sorted(row["image"] for row in rows) == [f"photos/{number:03d}.png" for number in range(60)]
    assert [row["image"] for row in rows if row["error"]] == ["photos/031.png"]
    assert all(row["caption"] for row in rows if not row["error"])
