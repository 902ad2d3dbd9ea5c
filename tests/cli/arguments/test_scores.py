"""The arguments of scoring, and the table."""

from __future__ import annotations

import argparse

import pytest

from captioner.cli.arguments.scores import add_score_arguments, print_scores


def test_the_tokenizers_are_those_there_are(capsys):
    from captioner.metrics.scores import TOKENIZERS

    parser = argparse.ArgumentParser()
    add_score_arguments(parser)
    assert vars(parser.parse_args([])) == {"tokenizer": None, "meteor": False}
    for name in TOKENIZERS:
        assert vars(parser.parse_args(["--tokenizer", name, "--meteor"])) == {"tokenizer": name, "meteor": True}
    with pytest.raises(SystemExit):
        parser.parse_args(["--tokenizer", "spacy"])
    assert "ptb" in capsys.readouterr().err


def test_the_table(capsys):
    print_scores({"BLEU-4": 12.345, "METEOR": None, "num_scored": 3, "tokenizer": "x", "CIDEr": 0.0}, width=8)
    assert capsys.readouterr().out == "BLEU-4     12.35\nMETEOR  left out\nCIDEr       0.00\n"
