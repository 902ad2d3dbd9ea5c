"""Java is used where it starts."""

from __future__ import annotations

import sys

import pytest
from score_cases import HYPOTHESES, REFERENCES, make_java

from captioner.metrics import find_tokenizer, score
from captioner.metrics.java import JavaError, find_java

needs_shell = pytest.mark.skipif(sys.platform == "win32", reason="its Java is a shell script")


@needs_shell
def test_java_that_does_not_start_is_no_java(monkeypatch, tmp_path):
    make_java(monkeypatch, tmp_path, "echo Unable to locate a Java Runtime >&2; exit 1\n")
    assert find_java() is None
    assert score(REFERENCES, HYPOTHESES).meteor is None


@needs_shell
def test_java_that_does_not_answer_is_not_taken_for_none(monkeypatch, tmp_path, caplog):
    make_java(monkeypatch, tmp_path, "sleep 30\n")
    monkeypatch.setattr("captioner.metrics.java.PATIENCE", 0.05)
    message = r"Java did not answer in 0\.05 s \(.*java -version\): the machine may be too busy"
    with pytest.raises(JavaError, match=message):
        find_java()
    scores = score(REFERENCES, HYPOTHESES)
    assert (scores.meteor, scores.tokenizer) == (None, "built-in (PTB-like)")
    assert [record.getMessage().partition(": Java did not answer in 0.05 s")[0] for record in caplog.records] == [
        "the words are the built-in tokenizer's",
        "METEOR is left out",
    ]
    for wanted in (lambda: score(REFERENCES, HYPOTHESES, require_meteor=True), lambda: find_tokenizer("ptb")):
        with pytest.raises(JavaError, match=message):
            wanted()


@needs_shell
def test_java_is_asked_once_whether_it_starts(monkeypatch, tmp_path):
    make_java(monkeypatch, tmp_path, f"echo asked >> {tmp_path}/times\n")
    assert find_java() == find_java() == str(tmp_path / "java")
    assert (tmp_path / "times").read_text() == "asked\n"
