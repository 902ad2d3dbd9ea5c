"""`python -m captioner` is the command."""

from __future__ import annotations

import runpy
import sys

import pytest


def test_the_package_runs_as_a_program(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["captioner", "--version"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_module("captioner", run_name="__main__")
    assert stop.value.code == 0
    assert capsys.readouterr().out.startswith("captioner ")
