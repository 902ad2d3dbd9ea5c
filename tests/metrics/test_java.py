"""Java is used where it starts."""

from __future__ import annotations

import sys

import pytest
from score_cases import HYPOTHESES, REFERENCES, make_java

from captioner.metrics import score
from captioner.metrics.java import find_java

needs_shell = pytest.mark.skipif(sys.platform == "win32", reason="its Java is a shell script")


@needs_shell
def test_java_that_does_not_start_is_no_java(monkeypatch, tmp_path):
    make_java(monkeypatch, tmp_path, "echo Unable to locate a Java Runtime >&2; exit 1\n")
    assert find_java() is None
    assert score(REFERENCES, HYPOTHESES).meteor is None
