"""Captioning a chunk."""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path

import pytest
from bulk_cases import caption_all, pq, rows_of, write_table

from captioner.bulk import (
    MAX_TRIES,
    Done,
    ImageList,
    Job,
    TarShard,
    Worker,
    done_before,
    find_work,
    look_up,
    record,
    write_chunk,
)
from captioner.decoding import BeamSearch
from captioner.predictors import Alternative, Caption, Wording, load
from captioner.types import ImageError


@pytest.mark.parametrize("format", ["parquet", "jsonl"])
def test_rows_of_everything(album, good_names, broken_names, model_file, make_plan, format):
    job = Job(str(model_file), BeamSearch(3), Wording(max_length=8), num_best=2, format=format, device="cpu")
    plan = make_plan(find_work([str(album)], 5)[0], job)
    done = caption_all(plan, job)
    assert sum(chunk.images for chunk in done) == 16
    assert sum(chunk.errors for chunk in done) == 4
    assert list(done_before(plan).values()) == [chunk._replace(tries=0) for chunk in done]
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
    assert [chunk.failure for chunk in caption_all(plan, job)] == ["", ""]
    found = [(row["image"], row["error"] is None) for row in rows_of(plan)]
    assert found[:3] == [(f"{shards[0]}/{name}", name != "half.png") for name in names]
    assert found[3] == (f"{shards[1]}/CMYK.jpg", True)
    assert found[-1] == (shards[1], False)


@pytest.mark.parametrize("format", ["parquet", "jsonl"])
def test_names_and_captions_of_all_kinds(tmp_path, format):
    path = tmp_path / f"chunk.{format}"
    caption = Caption('"error": null', ("a",), -1.0, others=(Alternative("b", -2.0),))
    rows = [record("\udcff\n猫", ImageError("x", '"error": null')), record("", caption)]
    rows.append(record("x", ImageError("x", "no \udcff")))
    write_chunk(path, tmp_path, rows, num_best=2)
    assert look_up(path, 7) == Done(7, images=3, errors=2)


def test_a_chunk_is_whole_or_absent(tmp_path):
    def rows():
        yield record("a", ImageError("a", "broken"))
        assert list((tmp_path / "work").iterdir())
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_chunk(tmp_path / "chunk.parquet", tmp_path / "work", rows())
    assert [path.name for path in tmp_path.rglob("*")] == ["work"]


def test_rows_are_written_in_groups(tmp_path, monkeypatch):
    monkeypatch.setattr("captioner.bulk.chunks.ROW_GROUP", 10)
    write_chunk(tmp_path / "p.parquet", tmp_path, (record(str(n), ImageError("x", "y")) for n in range(25)))
    file = pq.ParquetFile(tmp_path / "p.parquet")
    assert [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)] == [10, 10, 5]
    assert file.read().column("image").to_pylist() == [str(n) for n in range(25)]


def test_a_chunk_that_is_done_is_left_alone(album, make_plan, job):
    plan = make_plan(find_work([str(album)], 100)[0])
    [first] = caption_all(plan, job)
    written = plan.path(0).stat().st_mtime_ns
    again = Done(**Worker(plan, job)(plan.chunks[0]._asdict()))
    assert again == first._replace(tries=0)
    assert plan.path(0).stat().st_mtime_ns == written


def test_what_goes_wrong_is_reported(album, make_plan, job, tmp_path):
    plan = make_plan([ImageList((str(album / "grey.png"),))])
    Path(job.model).rename(tmp_path / "hidden")
    try:
        done = Done(**Worker(plan, job)(plan.chunks[0]._asdict()))
    finally:
        (tmp_path / "hidden").rename(job.model)
    assert done.failure.startswith(f"chunk 0: {job.model}: no such model file")

    def bug():
        raise TypeError("a bug")

    done = Done(**Worker(plan, job, prepare=bug)(plan.chunks[0]._asdict()))
    assert done.failure.startswith("chunk 0: Traceback")
    assert "TypeError: a bug" in done.failure
    assert not plan.path(0).exists()


def test_a_chunk_that_kills_its_workers_stops_the_run(album, make_plan, job):
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


def test_a_model_of_no_numbers_stops_the_run(album, broken_model, make_plan):
    job = Job(str(broken_model), BeamSearch(3), Wording(), device="cpu")
    plan = make_plan(find_work([str(album)], 50)[0], job)
    (done,) = caption_all(plan, job)
    assert done.failure.startswith(f"chunk 0: {broken_model}: gives a caption with the log-probability nan")
    assert "\n" not in done.failure
    assert not list(plan.folder.glob("part-*"))


def test_photos_at_urls_are_captioned(album, tmp_path, make_plan, job):
    url = f"file://{album / 'grey.png'}"
    table = write_table(tmp_path / "t.parquet", image=[url, str(album / "grey.png")])
    work, problems = find_work([url, table], 5)
    assert problems == []
    plan = make_plan(work)
    assert [chunk.errors for chunk in caption_all(plan, job)] == [0, 0]
    rows = rows_of(plan)
    assert [row["image"] for row in rows] == [url, url, str(album / "grey.png")]
    assert len({row["caption"] for row in rows}) == 1
    assert plan.num_new(work) == 0


def test_an_output_folder_that_vanished_is_a_failure_and_is_not_made_anew(album, make_plan, job):
    plan = make_plan(find_work([str(album)], 50)[0])
    shutil.rmtree(plan.folder)
    (done,) = [Done(**Worker(plan, job)(chunk._asdict())) for chunk in plan.chunks]
    assert "No such file" in done.failure
    assert not plan.folder.exists()
