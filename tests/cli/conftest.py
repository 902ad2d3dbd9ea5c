"""A run of the training command, and `captioner caption` with the tiny model."""

from __future__ import annotations

import pytest
from comparison_fixtures import config  # noqa: F401 (a fixture)
from run_cases import arguments

from captioner.cli.main import main


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder in which a run of two epochs has been made."""
    root = tmp_path_factory.mktemp("training")
    assert main(arguments(root, 2)) == 0
    return root


@pytest.fixture
def run(model_file, capsys):
    """Runs the command; its exit status, lines of stdout and lines of stderr."""

    def run(*arguments):
        status = main(["caption", "--model", str(model_file), "--device", "cpu", *map(str, arguments)])
        out, err = capsys.readouterr()
        return status, out.splitlines(), err.splitlines()

    return run
