"""`captioner score`: a table for people, unrounded JSON for programs."""

from __future__ import annotations

import argparse
import json

import pytest

from captioner.cli.score import add_arguments, run
from captioner.metrics import score, write_results

REFERENCES = {1: ["a dog runs on the grass", "a dog"], 2: ["a cat sleeps on a bed"], 3: ["a cow"]}
RESULTS = {1: "a dog runs", 2: "a cat on a bed"}


@pytest.fixture
def arguments(tmp_path, monkeypatch):
    monkeypatch.setattr("captioner.metrics.java.shutil.which", lambda command: None)
    annotations = [{"image_id": i, "caption": c} for i, captions in REFERENCES.items() for c in captions]
    (tmp_path / "references.json").write_text(json.dumps({"annotations": annotations}))
    write_results(tmp_path / "results.json", RESULTS)
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    names = {name: str(tmp_path / f"{name}.json") for name in ("references", "results", "output")}
    return parser.parse_args([part for name, path in names.items() for part in (f"--{name}", path)])


def test_table_and_json(arguments, capsys):
    assert run(arguments) == 0
    expected = score(REFERENCES, RESULTS)
    table = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert table["BLEU-4"] == f"{expected.bleu[3]:.2f}"
    assert table["METEOR"] == "left out"
    assert (table["images"], table["missing"]) == ("2", "1")
    assert table["tokenizer"] == expected.tokenizer
    assert json.loads(arguments.output.read_text()) == expected.to_dict()


def test_foreign_results(arguments):
    write_results(arguments.results, {99: "a dog"})
    with pytest.raises(ValueError, match="99"):
        run(arguments)
