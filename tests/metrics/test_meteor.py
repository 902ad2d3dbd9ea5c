"""METEOR's program: it is ended, and missed where it fails."""

from __future__ import annotations

import subprocess
import sys

import pytest
from score_cases import HYPOTHESES, REFERENCES, make_java

from captioner.metrics import BuiltinTokenizer, score
from captioner.metrics.java import JavaError
from captioner.metrics.meteor import meteor

needs_shell = pytest.mark.skipif(sys.platform == "win32", reason="its Java is a shell script")


@needs_shell
def test_meteor_is_left_out_when_its_program_fails(monkeypatch, tmp_path, caplog):
    reason = "Could not reserve enough space for object heap"
    make_java(monkeypatch, tmp_path, f'[ "$1" = -version ] && exit 0; echo "{reason}" >&2; exit 1\n')
    scores = score(REFERENCES, HYPOTHESES, tokenizer=BuiltinTokenizer())
    assert scores.meteor is None and scores.rouge_l > 0
    (record,) = caplog.records
    assert reason in record.getMessage()


@needs_shell
def test_meteor_ends_its_program(monkeypatch, tmp_path):
    """Even one that talks nonsense and would go on for ever."""
    make_java(monkeypatch, tmp_path, '[ "$1" = -version ] && exit 0; while :; do echo nonsense; done\n')
    started = []

    class Popen(subprocess.Popen):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            started.append(self)

    monkeypatch.setattr("captioner.metrics.meteor.subprocess.Popen", Popen)
    with pytest.raises(JavaError, match="nonsense"):
        meteor([["a dog"]], ["a cat"])
    assert started[-1].returncode is not None
    assert started[-1].stdin.closed and started[-1].stdout.closed


@needs_shell
@pytest.mark.parametrize("answer", ["NaN", "Infinity", "none"])
def test_a_score_that_is_no_number_is_none(monkeypatch, tmp_path, answer, caplog):
    answers = f'case "$line" in EVAL*) while :; do echo {answer}; done;; *) echo 1;; esac'
    make_java(monkeypatch, tmp_path, f'[ "$1" = -version ] && exit 0; while read line; do {answers}; done\n')
    with pytest.raises(JavaError, match="METEOR's program failed"):
        meteor([["a dog"]], ["a cat"])
    assert score(REFERENCES, HYPOTHESES, tokenizer=BuiltinTokenizer()).meteor is None
    assert "METEOR is left out" in caplog.text
    with pytest.raises(JavaError, match="METEOR's program failed"):
        score(REFERENCES, HYPOTHESES, tokenizer=BuiltinTokenizer(), require_meteor=True)
