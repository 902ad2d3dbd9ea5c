"""The command itself: quick help, one clear line for what a user can mend."""

from __future__ import annotations

import subprocess
import sys

import pytest

import captioner
from captioner.cli.main import COMMANDS, main

HEAVY = ("torch", "torchvision", "timm", "pytorch_lightning", "matplotlib", "numpy", "PIL", "pycocoevalcap")


def test_help_imports_nothing_heavy():
    script = f"""
import sys
from captioner.cli.main import COMMANDS, main
for arguments in [["--help"], ["--version"], *([name, "--help"] for name in COMMANDS if name != "train")]:
    try:
        main(arguments)
    except SystemExit as stop:
        assert stop.code == 0
heavy = [name for name in {HEAVY} if name in sys.modules]
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(f"usage: captioner {name} " in done.stdout for name in COMMANDS if name != "train")


def test_help_lists_every_command(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert all(f"\n    {name} " in out for name in COMMANDS)


def test_version(capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"captioner {captioner.__version__}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["paint"],
        ["caption"],
        ["caption", "x.jpg", "--beam-size", "0"],
        ["caption", "x.jpg", "--batch-size", "many"],
        ["caption", "x.jpg", "--bem-size", "3"],
        ["heatmap", "x.jpg"],
        ["evaluate", "--data", "x"],
        ["export", "x", "--output", "y.safetensors", "--dtype", "int8"],
    ],
)
def test_wrong_usage(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert "error: " in capsys.readouterr().err.splitlines()[-1]


def test_a_bug_is_not_hidden(monkeypatch, tmp_path):
    monkeypatch.setattr("captioner.data.images.find_images", lambda paths: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["caption", str(tmp_path)])


def test_interruption(monkeypatch, tmp_path, capsys):
    def interrupt(paths):
        raise KeyboardInterrupt

    monkeypatch.setattr("captioner.data.images.find_images", interrupt)
    assert main(["caption", str(tmp_path)]) == 130
    assert capsys.readouterr().err == "captioner: interrupted\n"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["caption", "a.jpg", "--beamsize", "3"], "unrecognized arguments: --beamsize 3; did you mean --beam-size or"),
        (["score", "--references", "a.json", "--results", "b.json", "--tokeniser=ptb"], "did you mean --tokenizer?"),
        (["demo", "x"], "unrecognized arguments: x\n"),
    ],
)
def test_a_misspelt_argument_is_named_with_those_called_alike(given, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(given)
    assert stop.value.code == 2
    err = capsys.readouterr().err
    assert f"captioner {given[0]}: error: " in err
    assert message in err
