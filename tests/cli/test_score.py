"""`captioner score`: a table for people, unrounded JSON for programs."""

from __future__ import annotations

import argparse
import errno
import json

import pytest

from captioner.cli.main import main
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


def test_what_needs_java_is_an_error_where_it_is_asked_for(arguments, capsys):
    given = ["score", "--references", str(arguments.references), "--results", str(arguments.results)]
    for option in (["--tokenizer", "ptb"], ["--meteor"], ["--tokenizer", "builtin", "--meteor"]):
        assert main([*given, *option]) == 2
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert "captioner: error: Java was not found" in err
    assert main([*given, "--tokenizer", "builtin"]) == 0
    assert "built-in" in capsys.readouterr().out


REFERENCE_FILES = {
    "no JSON": (b"{", "malformed JSON"),
    "UTF-16": ('{"annotations": []}'.encode("utf-16"), "not UTF-8 text"),
    "Latin-1": ('{"annotations": [{"image_id": 1, "caption": "é"}]}'.encode("latin-1"), "not UTF-8 text"),
    "nested": (b"[" * 100_000, "malformed JSON"),
    "NaN": (b'{"annotations": [{"image_id": NaN, "caption": "a"}]}', "NaN is not a number in JSON"),
    "null": (b'{"annotations": [{"image_id": null, "caption": "a"}]}', "annotations[0]: image id None"),
    "1.5": (b'{"annotations": [{"image_id": 1.5, "caption": "a"}]}', "annotations[0]: image id 1.5"),
    "no caption": (b'{"annotations": [{"image_id": 1, "caption": null}]}', 'annotations[0]: "caption" is None'),
    "half a character": (b'{"annotations": [{"image_id": 1, "caption": "\\ud83d"}]}', "holds half a character"),
    "a key twice": (b'{"annotations": [], "annotations": []}', "the key 'annotations' comes twice"),
    "an unknown image": (
        b'{"images": [{"id": 1}], "annotations": [{"image_id": 2, "caption": "a"}]}',
        "annotations[0]: image id 2 is not among the images",
    ),
    "two images": (b'{"images": [{"id": 1}, {"id": 1}], "annotations": []}', "images[1]: a second image with the id 1"),
    "no captions": (
        b'{"images": [{"id": 1}], "annotations": []}',
        "2 of 2 captions are for images that have no references: 1, 2",
    ),
}


@pytest.mark.parametrize("case", REFERENCE_FILES)
def test_references_that_are_none_are_one_line(case, arguments, capsys):
    content, message = REFERENCE_FILES[case]
    arguments.references.write_bytes(content)
    assert main(["score", "--references", str(arguments.references), "--results", str(arguments.results)]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert message in err


def test_one_image_has_a_note(arguments, capsys, caplog):
    write_results(arguments.results, {1: "a dog runs"})
    assert main(["score", "--references", str(arguments.references), "--results", str(arguments.results)]) == 0
    assert "CIDEr           0.00" in capsys.readouterr().out
    assert "CIDEr is 0, whatever the captions are" in caplog.text


def test_scores_that_cannot_be_written_are_shown(arguments, capsys, monkeypatch):
    (arguments.output.parent / "file").touch()
    options = ["--references", arguments.references, "--results", arguments.results]
    place = arguments.output.parent / "file" / "metrics.json"
    assert main(["score", *map(str, options), "--output", str(place)]) == 2
    out, err = capsys.readouterr()
    assert "CIDEr" in out
    assert err.startswith(f"captioner: error: {place.parent}: ") and err.count("\n") == 1


def test_a_full_disk_is_named_with_the_file(arguments, capsys, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("captioner.files.os.fsync", full)
    options = {"references": arguments.references, "results": arguments.results, "output": arguments.output}
    assert main(["score", *(part for name, path in options.items() for part in (f"--{name}", str(path)))]) == 2
    assert capsys.readouterr().err == f"captioner: error: {arguments.output}: No space left on device\n"
    assert sorted(path.name for path in arguments.output.parent.iterdir()) == ["references.json", "results.json"]
