"""Options of the tests, and where their fixtures lie."""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # for models as small as these more threads only get into each other's way


def pytest_addoption(parser):
    parser.addoption("--seed", type=int, default=0, help="shift all of torch's seeds by this; no test may depend on it")
    parser.addoption("--rehearse", action="store_true", help="run tests of a GPU on the CPU, as far as they go there")


def pytest_configure(config):
    """Import the fixtures, and torch with them, where tests run: not in the process that only hands them out."""
    if hasattr(config, "workerinput") or not getattr(config.option, "numprocesses", None):
        config.pluginmanager.import_plugin("shared_fixtures")
