"""Trainings and what came of them."""

from __future__ import annotations

import json
import subprocess
from dataclasses import asdict

import pytest
import yaml
from PIL import Image

from captioner.cli import compare
from captioner.cli.main import main
from captioner.comparison import Result, find_variants
from captioner.comparison.results import evaluate_run, train_variant
from captioner.metrics.java import JavaError


def result(seed: int, cider: float, meteor: float | None = 20.0, config: str = "") -> Result:
    return Result(seed, config, cider / 2, meteor, cider, 4.0, 1_500_000, 2.0, 3.0, 50.0)


def test_what_is_done_is_not_done_again(config, tmp_path, monkeypatch, capsys):
    trained = []

    def train(variant, seed, folder, changes):
        trained.append((variant.name, seed, *changes))
        folder.mkdir(parents=True)
        if variant.name == "tiny/blind" and len(trained) == 3:
            raise RuntimeError("cut off")

    monkeypatch.setattr(compare, "train_variant", train)
    monkeypatch.setattr(compare, "evaluate_run", lambda folder, seed, digest, trust: result(seed, 30.0, config=digest))
    arguments = ["compare", str(config), "--runs", str(tmp_path / "runs"), "--set", "trainer.max_epochs=1"]
    assert main(arguments) == 2  # cut off at the third
    done = trained.copy()
    trained.clear()
    monkeypatch.setattr(compare, "train_variant", lambda variant, seed, *rest: trained.append((variant.name, seed)))
    assert main([*arguments, "--output", str(tmp_path / "out" / "table.md")]) == 0
    assert done == [(name, 0, "trainer.max_epochs=1") for name in ("tiny/tiny", "tiny/alone", "tiny/blind")]
    assert trained == [("tiny/blind", 0)]
    assert capsys.readouterr().out == (tmp_path / "out" / "table.md").read_text("utf-8")
    assert main([*arguments, "--only", "alone", "blind", "--seeds", "1", "--table-only"]) == 0
    assert len(trained) == 1
    assert "first" not in capsys.readouterr().out
    assert main([*arguments[:-1], "trainer.max_epochs=2"]) == 2  # no row of another budget among the others
    assert "is of another config, or of another --set" in capsys.readouterr().err


def test_it_trains_evaluates_and_draws(config, tmp_path, draw, capsys, monkeypatch):
    """A whole training in a process of its own, as small as it comes; the variant changes the epochs."""
    for module in ("java", "scores"):
        monkeypatch.setattr(f"captioner.metrics.{module}.find_java", lambda: None)
    draw(0).save(tmp_path / "photo.png")
    arguments = ["compare", str(config), "--only", "alone", "--runs", str(tmp_path / "runs")]
    figure = ["--figure", str(tmp_path / "f.jpg"), "--photo", str(tmp_path / "photo.png"), "--caption", "a red circle"]
    assert main([*arguments, *figure, "--set", "data.captions_per_image=1"]) == 0
    folder = tmp_path / "runs" / "tiny" / "alone" / "seed0"
    found = json.loads((folder / "result.json").read_text())
    assert found["parameters"] > 1000
    assert 0 < found["cpu_minutes"]
    assert 0 < found["captions_per_second"]
    assert yaml.safe_load((folder / "config.yaml").read_text())["data"]["captions_per_image"] == 1
    assert yaml.safe_load((folder / "config.yaml").read_text())["trainer"]["max_epochs"] == 2
    assert "| alone | 1 |" in capsys.readouterr().out
    assert (tmp_path / "f.jpg").stat().st_size > 1000
    with Image.open(tmp_path / "f.jpg") as picture:
        assert picture.format == "JPEG"
    wrong = ["--figure", str(tmp_path / "f.x"), *figure[2:], "--table-only"]
    assert main([*arguments, *wrong, "--set", "data.captions_per_image=1"]) == 2
    assert "ends as a picture's: .png, .jpg or .pdf, say" in capsys.readouterr().err


DAMAGED = {
    "half": b'{"seed": 0, "config',
    "empty": b"",
    "a list": b"[1]",
    "a text": b'"result"',
    "NaN": json.dumps(asdict(result(0, 30.0)) | {"cider": float("nan")}).encode(),
    "a text for a number": json.dumps(asdict(result(0, 30.0)) | {"cider": "30"}).encode(),
    "null": json.dumps(asdict(result(0, 30.0)) | {"bleu4": None}).encode(),
    "too little": b'{"seed": 0}',
    "too much": json.dumps(asdict(result(0, 30.0)) | {"spice": 3}).encode(),
    "Latin-1": '{"seed": "é"}'.encode("latin-1"),
}


@pytest.mark.parametrize("options", [[], ["--table-only"]])
@pytest.mark.parametrize("case", DAMAGED)
def test_results_that_are_none_are_named(case, options, config, tmp_path, capsys):
    place = tmp_path / "runs" / "tiny" / "tiny" / "seed0" / "result.json"
    place.parent.mkdir(parents=True)
    place.write_bytes(DAMAGED[case])
    assert main(["compare", str(config), "--runs", str(tmp_path / "runs"), *options]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"captioner: error: {place} is no result of this version (") and err.count("\n") == 1
    assert "delete it, and it is evaluated again" in err


def test_the_minutes_of_every_attempt_are_kept(config, tmp_path, monkeypatch):
    monkeypatch.setattr(subprocess, "run", lambda command, check: subprocess.CompletedProcess(command, 0))
    for _ in range(2):
        train_variant(find_variants(config)[0], 0, tmp_path / "run", [])
    lines = (tmp_path / "run" / "times.jsonl").read_text().splitlines()
    assert [json.loads(line).keys() for line in lines] == [{"minutes", "cpu_minutes"}] * 2


@pytest.mark.parametrize("content", ["data: 3", "[]", "data: {reader: {}}", ""])
def test_a_run_without_a_config_is_named(content, tmp_path):
    (tmp_path / "config.yaml").write_text(content)
    with pytest.raises(ValueError, match=r"config\.yaml: not the config of a training: it has no data\.val_split"):
        evaluate_run(tmp_path, 0, "", [])


def test_a_row_does_not_go_without_meteor_as_java_is_busy(tmp_path, monkeypatch):
    def busy():
        raise JavaError("Java did not answer in 60 s")

    (tmp_path / "config.yaml").write_text("data: {val_split: dev}")
    monkeypatch.setattr("captioner.metrics.java.find_java", busy)
    monkeypatch.setattr("captioner.predictors.load", lambda *args, **options: None)
    monkeypatch.setattr("captioner.data.readers.read_data", lambda path: Mine())
    with pytest.raises(JavaError, match="did not answer"):
        evaluate_run(tmp_path, 0, "", [])


class Mine:
    def read(self, split):
        return []
