"""Arguments to searches and wordings, and what `captioner caption` makes of them."""

from __future__ import annotations

import argparse
import csv
import json

import pytest

from captioner.cli.arguments.search import add_search_arguments, find_search, find_wording
from captioner.cli.main import main
from captioner.decoding import BeamSearch, DiverseBeamSearch, GreedySearch, Sampling
from captioner.predictors import Wording

SEARCHES = {
    "": BeamSearch(),
    "--beam-size 3 --length-penalty 0": BeamSearch(3, 0.0),
    "--search greedy": GreedySearch(),
    "--search diverse": DiverseBeamSearch(5, 5),
    "--search diverse --beam-size 6 --groups 2 --diversity 1": DiverseBeamSearch(6, 2, 1.0),
    "--search sample": Sampling(num_samples=2),
    "--search sample --temperature 0.5 --top-k 9 --top-p 0.8 --seed 7": Sampling(2, 0.5, 9, 0.8, 7),
}


def parse(text: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_search_arguments(parser)
    return parser.parse_args(text.split())


@pytest.mark.parametrize(("text", "search"), SEARCHES.items())
def test_searches(text, search):
    assert find_search(parse(text), num_best=2) == search


@pytest.mark.parametrize("text", ["--search greedy --beam-size 3", "--top-p 0.5", "--search sample --diversity 1"])
def test_an_argument_of_another_search_is_refused(text):
    with pytest.raises(ValueError, match="belongs to --search"):
        find_search(parse(text))


def test_wordings():
    text = "--min-length 2 --max-length 9 --no-repeat 3 --forbid a --forbid dog --require cat --no-ending with"
    assert find_wording(parse(text)) == Wording(2, 9, 3, ("a", "dog"), ("cat",), ("with",))
    assert find_wording(parse("")) == Wording()


def test_several_captions_of_a_photo(album, model_file, tmp_path, capsys):
    photo = str(album / "grey.png")
    arguments = ["caption", photo, "--model", str(model_file), "--num-best", "3", "--device", "cpu"]
    assert main(arguments) == 0
    first, *others = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{photo}: ")
    assert len(others) == 2
    for name in ("o.jsonl", "o.csv"):
        assert main([*arguments, "--output", str(tmp_path / name)]) == 0
    record = json.loads((tmp_path / "o.jsonl").read_text("utf-8"))
    assert [record["caption"], *(other["caption"] for other in record["others"])] == [
        first.removeprefix(f"{photo}: "),
        *map(str.strip, others),
    ]
    with open(tmp_path / "o.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == [photo] * 3
    assert [row["caption"] for row in rows][1:] == [other["caption"] for other in record["others"]]


def test_words_that_the_model_does_not_know_stop_it_before_any_work(album, model_file, capsys):
    assert main(["caption", str(album / "grey.png"), "--model", str(model_file), "--require", "zebra"]) == 2
    assert "cannot say 'zebra'" in capsys.readouterr().err


def test_sentences_and_photos_are_told_apart(album, model_file, capsys):
    assert main(["caption", "--text", "a sentence", "--model", str(model_file)]) == 2
    assert "this model reads photos" in capsys.readouterr().err
