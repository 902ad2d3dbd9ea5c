"""The rooms of the package stay apart: who may import whom, read from the source; and each module has its tests."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from pathlib import Path

import pytest
from draw_house import (
    DOORS,
    DRAWING,
    FLOORS,
    INSIDE,
    ORDER,
    ROOT,
    between_rooms,
    direct,
    drawn,
    graph,
    imports,
    modules,
    place,
    room_of,
    svg,
    ways,
)

MODULES = modules()
EDGES = graph()
TESTS = Path(__file__).parent
MAX_LINES = 420  # of a file

GROUND = {"types", "tokenizer", "specs", "configs", "files", "texts", "seeds", "devices", "progress", "version"}
PARTS = {"models", "decoding", "losses", "metrics", "heatmaps"}
MAY_IMPORT = {
    **{room: set() for room in GROUND},
    "tokenizer": {"types"},
    "specs": {"types", "tokenizer"},
    "configs": {"specs", "texts"},
    "metrics": {"files", "texts"},
    "models": {"types"},
    "decoding": {"types", "devices"},
    "losses": {"types"},
    "heatmaps": {"types", "files"},
    "data": GROUND - {"version"},
    "checkpoint": GROUND | {"models", "data"},
    "predictors": GROUND | {"decoding", "data", "checkpoint"},
    "training": GROUND | {"models", "losses", "data", "checkpoint"},
    "evaluation": GROUND | PARTS | {"data", "predictors"},
    "bulk": GROUND | {"decoding", "data", "predictors"},
    "tasks": GROUND | PARTS | {"data", "checkpoint", "training", "predictors"},
    "comparison": GROUND | {"metrics", "heatmaps", "data", "predictors", "evaluation"},
    "cli": set(ORDER),
}
LIGHTNING_ROOMS = ("training/", "tasks/", "cli/train.py")
LIGHT_AT_THE_TOP = (
    "__init__.py",
    "version.py",
    "types/",
    "progress.py",
    "comparison/",
    "cli/",
)  # what --help waits for
LIGHT_ROOMS = (
    "metrics/",
    "files.py",
    "texts.py",
    "seeds.py",
    "data/images/",
    "data/readers/",
    "data/shards/",
)  # no torch at the top
CNN_LIBRARIES = {"timm", "torchvision"}  # seconds each; most models need one of them at most
UNUSED_BY_A_MODEL_OF_REGIONS = {*CNN_LIBRARIES, "sympy", "torch._dynamo", "huggingface_hub", "yaml"}
UNUSED_BY_CAPTIONING = {
    "IPython",
    "jsonargparse",
    "matplotlib",
    "pandas",
    "pycocoevalcap",
    "pycocotools",
    "pytorch_lightning",
    "ray",
    "rich",
    "scipy",
    "skimage",
    "tensorboard",
}
HEAVY = {"torch", "torchvision", "timm", "matplotlib", "pytorch_lightning", "pycocoevalcap", "numpy", "PIL", "rich"}


def packages(module: str, top_only: bool = False) -> set[str]:
    """The packages, this one and others, that a module imports from."""
    return {name.partition(".")[0] for name in imports((ROOT / module).read_text(encoding="utf-8"), top_only)}


# ------------------------------------------------------------------------------------------ the house


def test_every_room_has_its_floor():
    assert {room_of(module) for module in MODULES} - DOORS == set(ORDER) == MAY_IMPORT.keys()
    assert sum(len(rooms) for _, rooms in FLOORS) == len(ORDER)
    assert len(MODULES) > 100


def test_nothing_goes_round_in_circles():
    """Nor do imports inside functions, or those for type checkers."""
    try:
        TopologicalSorter(EDGES).prepare()
    except CycleError as error:
        pytest.fail(" <- ".join(error.args[1]))


def test_nothing_runs_up():
    for room, used in between_rooms(EDGES).items():
        below = ORDER[: ORDER.index(room)]
        assert used <= set(below), f"{room} may import {below} only"


def test_a_room_reaches_no_further_than_it_may():
    for room, used in between_rooms(EDGES).items():
        assert used <= MAY_IMPORT[room], f"{room} may import {MAY_IMPORT[room]} only"


@pytest.mark.parametrize("room", INSIDE)
def test_rooms_within_a_room_import_to_the_left(room):
    """And none of them from the room's own door, which opens on all of them."""
    for module in MODULES:
        parts = module.split("/")
        if parts[0] == room and len(parts) > 2:
            allowed = INSIDE[room][: INSIDE[room].index(parts[1]) + 1]
            used = {other.split("/")[1] for other in EDGES[module] if room_of(other) == room}
            assert used <= set(allowed), f"{module} may import {allowed} only"


def test_a_module_imports_nobody_s_private_names():
    for module in MODULES:
        for name in imports((ROOT / module).read_text(encoding="utf-8")):
            private = name.rpartition(".")[2].startswith("_") and not name.endswith("__")
            assert not (name.startswith("captioner.") and private), f"{module} imports {name}"


def test_no_file_is_longer_than_it_may_be():
    folders = [ROOT, *(ROOT.parent / name for name in ("benchmarks", "docs", "scripts", "tests"))]
    for path in (path for folder in folders for path in folder.rglob("*.py")):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_LINES, path


def test_the_drawing_is_of_today():
    assert DRAWING.read_text(encoding="utf-8") == svg(), "run: python docs/draw_house.py"


def test_no_line_of_the_drawing_goes_behind_a_room():
    floors, edges = place(), drawn(between_rooms(EDGES))
    for (room, other), points in ways(edges, floors).items():
        for box in (box for floor in floors for box in floor if box.room not in (room, other)):
            for x, y in points:
                assert not (box.x < x < box.x + box.width and box.y <= y <= box.y + box.height), (room, other, box.room)
            for (x, y), (x_next, y_next) in pairwise(points):
                level = y == y_next and box.y <= y <= box.y + box.height
                assert not (level and min(x, x_next) < box.x < max(x, x_next)), (room, other, box.room)


def test_the_drawing_leaves_out_what_follows_from_the_rest():
    assert direct({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == [("a", "b"), ("b", "c")]


# ------------------------------------------------------------------------------------------ what is heavy


def test_lightning_stays_in_its_rooms():
    for module in MODULES:
        used = packages(module) & {"pytorch_lightning", "lightning", "lightning_fabric"}
        assert not used or module.startswith(LIGHTNING_ROOMS), module


def test_what_is_heavy_is_imported_where_it_is_used():
    """Libraries of CNNs everywhere; torch where images and data sets are read; all of it where `--help` waits."""
    for module in MODULES:
        at_once = packages(module, top_only=True)
        assert not at_once & CNN_LIBRARIES, module
        assert "torch" not in at_once or not module.startswith(LIGHT_ROOMS), module
        assert not at_once & HEAVY or not module.startswith(LIGHT_AT_THE_TOP) or module == "cli/train.py", module


def test_captioning_imports_no_more_than_it_needs(tmp_path):
    """In a new process: a model of regions, which needs no CNN; then the model that ships, which needs timm's."""
    script = f"""
import sys
from captioner.models import PrecomputedRegions, UpDown
from captioner.predictors import load
UpDown(PrecomputedRegions(4).feature_dim, 10, embed_dim=8, hidden_dim=8)
print(sorted(sys.modules.keys() & {UNUSED_BY_A_MODEL_OF_REGIONS | UNUSED_BY_CAPTIONING}))
model = load(device="cpu")
from PIL import Image
assert model.caption(Image.new("RGB", (40, 30)))
print(sorted(sys.modules.keys() & {UNUSED_BY_CAPTIONING}))
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == ["[]", "[]"], done.stderr


def test_the_reader_of_imports_sees_them_all():
    source = (
        "import captioner.tasks as t\nfrom captioner import cli, __version__\n"
        "def f():\n    from captioner.data.images import open_image\n"
    )
    found = ["captioner.tasks", "captioner.cli", "captioner.__version__", "captioner.data.images.open_image"]
    assert list(imports(source)) == found
    assert list(imports(source, top_only=True)) == found[:3]


# ------------------------------------------------------------------------------------------ tests mirror modules

WITHOUT_TESTS = {  # tested with what they serve
    "decoding/phrases.py": "decoding/test_constraints.py",
}


def test_each_test_file_is_of_a_module():
    for path in TESTS.rglob("test_*.py"):
        name = path.relative_to(TESTS).as_posix()
        if not name.startswith(("whole/", "benchmarks/", "gpu/")) and path != Path(__file__):
            folder, _, file = name.rpartition("/")
            module = f"{folder}/{file.removeprefix('test_')}".lstrip("/")
            assert module in MODULES, f"{name} tests no module of that name"


def test_each_module_has_its_test_file():
    for module in MODULES:
        folder, _, file = module.rpartition("/")
        if file != "__init__.py":
            own = f"{folder}/test_{file}".lstrip("/")
            assert (TESTS / WITHOUT_TESTS.get(module, own)).is_file(), f"{module} has no {own}"


def test_names_of_test_files_say_where_they_are():
    for path in TESTS.rglob("*.py"):
        assert path.name.startswith("test_") or path.name == "conftest.py" or path.parent.name in ("support", "0.1.0")
        ast.parse(path.read_text(encoding="utf-8"))


def test_floors_have_the_ground_last():
    assert set(FLOORS[-1][1]) == GROUND
    assert all(set(above[1]).isdisjoint(below[1]) for above, below in pairwise(FLOORS))
