"""The plan: what is in which chunk."""

from __future__ import annotations

import pytest
from bulk_cases import caption_all, rows_of, write_table

from captioner.bulk import Plan, PlanError, find_work
from captioner.decoding import BeamSearch
from captioner.predictors import Wording


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
