"""`captioner evaluate`: a model on a split of a folder or of a config's data."""

from __future__ import annotations

import csv
import json

import pytest

from captioner.cli.main import main
from captioner.metrics import read_results
from captioner.metrics.java import JavaError
from captioner.predictors import load


@pytest.fixture(scope="module")
def data(draw, tmp_path_factory):
    """A folder of pictures with captions.csv."""
    root = tmp_path_factory.mktemp("data")
    with open(root / "captions.csv", "w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "caption", "split"])
        for seed in range(8):
            draw(seed).save(root / f"{seed}.png")
            split = ("train", "dev")[seed % 2]
            rows.writerows([[f"{seed}.png", text, split] for text in ("a red dog on the grass", "two boys sit")])
    return root


@pytest.fixture(autouse=True)
def _no_java(monkeypatch):
    """METEOR and the official tokenizer are tested where they are made."""
    for module in ("java", "scores"):
        monkeypatch.setattr(f"captioner.metrics.{module}.find_java", lambda: None)


@pytest.fixture
def run(model_file, capsys):
    def run(*arguments):
        status = main(["evaluate", "--model", str(model_file), "--device", "cpu", *map(str, arguments)])
        out, err = capsys.readouterr()
        return status, out.splitlines(), err.splitlines()

    return run


def test_a_folder(run, data, model_file, tmp_path):
    status, out, _ = run("--data", data, "--split", "dev", "--output", tmp_path / "new" / "results")
    assert status == 0
    captions = read_results(tmp_path / "new" / "results" / "captions.json")
    photos = [data / f"{seed}.png" for seed in (1, 3, 5, 7)]
    expected = [caption.text for caption in load(model_file, "cpu").caption(photos)]
    assert captions == dict(zip([photo.name for photo in photos], expected, strict=True))
    metrics = json.loads((tmp_path / "new" / "results" / "metrics.json").read_text())
    assert {"BLEU-1", "BLEU-4", "METEOR", "ROUGE-L", "CIDEr", "perplexity", "statistics", "tokenizer"} < metrics.keys()
    assert (metrics["num_scored"], metrics["num_missing"], metrics["split"]) == (4, 0, "dev")
    assert metrics["search"] == {"class": "BeamSearch", "beam_size": 5, "length_penalty": 0.7}
    assert metrics["wording"]["max_length"] == 30
    assert metrics["statistics"]["seen_in_training"] is not None
    assert any(line.startswith("CIDEr") for line in out)


def test_a_config(run, data, tmp_path):
    config = tmp_path / "config.yaml"
    reader = {"class_path": "captioner.data.readers.CaptionFolder", "init_args": {"root": str(data)}}
    config.write_text(json.dumps({"data": {"reader": reader}, "model": {"anything": 1}}))
    options = ["--split", "val", "--beam-size", 2, "--length-penalty", 0]
    assert run("--data", config, *options, "--output", tmp_path / "a")[0] == 0
    assert run("--data", data, *options, "--output", tmp_path / "b")[0] == 0
    first, second = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in "ab")
    assert {**first, "data": None} == {**second, "data": None}
    assert first["search"] == {"class": "BeamSearch", "beam_size": 2, "length_penalty": 0.0}


def test_the_only_split_is_taken(run, draw, tmp_path):
    (tmp_path / "images").mkdir()
    for seed in range(2):
        draw(seed).save(tmp_path / "images" / f"{seed}.png")
    content = {
        "images": [{"id": seed, "file_name": f"{seed}.png"} for seed in range(2)],
        "annotations": [{"id": seed, "image_id": seed, "caption": "a red dog"} for seed in range(2)],
    }
    (tmp_path / "captions.json").write_text(json.dumps(content))
    status, out, _ = run("--data", tmp_path, "--output", tmp_path / "out", "--tokenizer", "builtin")
    assert status == 0
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["split"] == "all"
    assert "METEOR           left out" in out
    assert any(line.endswith("(all)") for line in out)


def test_captions_are_kept_if_they_cannot_be_scored(run, data, tmp_path, monkeypatch):
    def fail(*args):
        raise JavaError("the PTB tokenizer gave 3 lines for 4 captions")

    (tmp_path / "metrics.json").write_text("of other captions")
    monkeypatch.setattr("captioner.evaluation.captions.score", fail)
    status, _, err = run("--data", data, "--output", tmp_path)
    assert (status, err[-1]) == (2, "captioner: error: the PTB tokenizer gave 3 lines for 4 captions")
    assert len(read_results(tmp_path / "captions.json")) == 4
    assert not (tmp_path / "metrics.json").exists()


CONFIGS = {
    "a: [1": "not a YAML file",
    "[]": "not a training config: it has no data.reader",
    "data: 3": "not a training config",
    "data: {reader: {class_path: captioner.data.readers.CaptionFolder, init_args: {rot: x}}}": "did you mean root?",
    "data: {reader: {class_path: captioner.models.ShowAttendTell}}": "ShowAttendTell",
    "data: {reader: {class_path: nowhere.Reader}}": "nowhere",
}


@pytest.mark.parametrize(("text", "message"), CONFIGS.items())
def test_configs_that_are_none(run, tmp_path, text, message):
    (tmp_path / "c.yaml").write_text(text)
    status, out, err = run("--data", tmp_path / "c.yaml", "--output", tmp_path / "out")
    assert (status, out, len(err)) == (2, [], 1)
    assert err[0].startswith(f"captioner: error: {tmp_path / 'c.yaml'}: ")
    assert message in err[0]


def test_what_stops_it_before_any_work(run, data, tmp_path, monkeypatch):
    monkeypatch.setattr("captioner.models.CaptionModel.encode", lambda *args: pytest.fail("it began"))
    (tmp_path / "file").touch()
    cases = [
        (
            ["--data", data, "--split", "test", "--output", tmp_path / "o"],
            "no split 'test'; there are: train, dev, all",
        ),
        (["--data", tmp_path / "gone", "--output", tmp_path / "o"], "no such folder"),
        (["--data", data, "--output", tmp_path / "file"], "file"),
        (["--data", data, "--output", tmp_path / "o", "--meteor"], "Java was not found"),
        (["--data", data, "--output", tmp_path / "o", "--tokenizer", "ptb"], "Java was not found"),
        (["--data", data, "--output", tmp_path / "o", "--cache", tmp_path / "no cache"], "no feature cache here"),
    ]
    for arguments, message in cases:
        status, _, err = run(*arguments)
        assert status == 2
        assert err[0].startswith("captioner: error: ")
        assert message in err[0]
