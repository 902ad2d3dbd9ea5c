"""The notebooks run from top to bottom in a kernel of their own, and what is stored of them is fit to be read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode

import captioner

FOLDER = Path(captioner.__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
ABSOLUTE_PATH = re.compile(r"(?<![\w.~/])/(?:home|Users|root|tmp|work|mnt|opt|usr|var|private)/|\b[A-Za-z]:\\\w")
LARGEST = 1_500_000  # bytes; larger ones are slow to open, and each version stays in the history


@pytest.fixture(scope="module", params=NOTEBOOKS, ids=lambda path: path.stem)
def path(request) -> Path:
    return request.param


@pytest.fixture(scope="module")
def stored(path) -> NotebookNode:
    return nbformat.read(path, as_version=4)


@pytest.fixture(scope="module")
def fresh(stored, tmp_path_factory) -> NotebookNode:
    """The notebook, run anew in an empty folder; a cell that fails raises here."""
    notebook = nbformat.from_dict(stored)
    for cell in code_cells(notebook):
        cell.outputs = []
    folder = str(tmp_path_factory.mktemp("notebook"))
    return NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": folder}}
    ).execute()


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def kinds(cell: NotebookNode) -> set[str]:
    """What a cell shows: "image/png", "image/jpeg", "text/plain" alone, "stdout" or "stderr"."""
    shown = set()
    for output in cell.outputs:
        data = output.get("data", {})
        shown |= {kind for kind in data if kind.startswith("image/")} or set(data)
        shown |= {output.name} if output.output_type == "stream" else set()
    return shown


def texts(notebook: NotebookNode) -> Iterator[str]:
    """All that a notebook says, pictures left out."""
    for cell in notebook.cells:
        yield cell.source
        for output in cell.get("outputs", []):
            yield output.get("text", "")
            yield from (str(value) for kind, value in output.get("data", {}).items() if not kind.startswith("image/"))
    yield str(notebook.metadata)


def printed(notebook: NotebookNode) -> str:
    return "".join(output.get("text", "") for cell in code_cells(notebook) for output in cell.outputs)


def test_there_are_notebooks():
    assert NOTEBOOKS


def test_it_runs_and_shows_what_is_stored(stored, fresh):
    for before, now in zip(code_cells(stored), code_cells(fresh), strict=True):
        assert kinds(now) == kinds(before), now.source
        assert "stderr" not in kinds(now), now.outputs


def test_it_is_stored_as_it_ran_from_top_to_bottom(stored):
    cells = code_cells(stored)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert any(cell.outputs for cell in cells)
    assert not any(output.output_type == "error" for cell in cells for output in cell.outputs)


def test_it_says_nothing_of_the_machine(stored):
    assert not [text for text in texts(stored) if ABSOLUTE_PATH.search(text)]
    assert stored.metadata.kernelspec.name == "python3"


def test_it_is_small(path):
    assert path.stat().st_size < LARGEST


@pytest.mark.parametrize("text", ["/home/ann/captioner", "see /tmp/x.png", r"C:\Users", 'File "/usr/lib/python3'])
def test_paths_of_a_machine_are_found(text):
    assert ABSOLUTE_PATH.search(text)


@pytest.mark.parametrize("text", ["[words.py](../captioner/models/words.py)", "https://a.org/home/b", "a/tmp/"])
def test_other_paths_are_not(text):
    assert not ABSOLUTE_PATH.search(text)


def test_links_lead_to_files(path, stored):
    links = re.findall(r"\]\((\.\./[^)#]+)", "\n".join(texts(stored)))
    assert not [link for link in links if not (path.parent / link).is_file()]


def test_the_dates_are_learned_with_attention_and_not_without(fresh):
    """What the text of attention_basics says of its models holds, whatever the version of torch."""
    shares = {name: int(share) for name, share in re.findall(r"(\w[\w ]*): +(\d+)% of \d+ new dates", printed(fresh))}
    assert shares.keys() == {"Bahdanau", "Luong", "no attention"}
    assert min(shares["Bahdanau"], shares["Luong"]) > 85
    assert shares["no attention"] < 60
