"""There is one version, wherever it is asked for."""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path

import captioner
from captioner.version import __version__

ROOT = Path(captioner.__file__).parents[1]


def test_the_version_is_one():
    assert captioner.__version__ == __version__ == importlib.metadata.version("captioner")
    assert re.search(rf"^version: {re.escape(__version__)}$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text()
