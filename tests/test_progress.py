"""Progress is shown on a terminal alone; in a log a line comes now and then."""

from __future__ import annotations

import sys

import pytest

from captioner import progress
from captioner.progress import logged_progress, progress_bar


@pytest.fixture
def terminal(monkeypatch):
    """A stderr that says that it is a terminal."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)


def test_no_bar_where_there_is_no_terminal(capsys):
    with progress_bar("working", 3) as bar:
        bar.advance()
        bar.say("a line")
    assert capsys.readouterr().err == "a line\n"


def test_a_terminal_has_a_bar_and_lines_above_it(capsys, terminal):
    with progress_bar("working", 3) as bar:
        bar.advance(2)
        bar.say("a [bold] line of " + "many " * 40 + "words")
    out, err = capsys.readouterr()
    assert out == ""
    assert "a [bold] line of " + "many " * 40 + "words" in err  # neither wrapped nor read as markup


def test_a_bar_may_be_told_to_hide(capsys, terminal):
    with progress_bar("working", 3, visible=False) as bar:
        bar.advance()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("interval", [0.0, 1e9])
def test_a_log_gets_a_line_when_it_is_time(capsys, monkeypatch, interval):
    monkeypatch.setattr(progress, "LOG_INTERVAL", interval)
    with logged_progress("encoding", 4000) as advance:
        advance(1000)
        advance(500)
    lines = ["encoding: 1,000 of 4,000", "encoding: 1,500 of 4,000"] if interval == 0 else []
    assert capsys.readouterr().err.splitlines() == lines
