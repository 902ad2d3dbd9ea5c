"""The rooms of the package stay apart: who may import whom, read from the source."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import captioner

ROOT = Path(captioner.__file__).parent
EVERYTHING_BELOW = {"types", "tokenizer", "models", "decoding", "losses", "metrics", "data", "heatmaps"}
MAY_IMPORT = {
    "types": set(),
    "tokenizer": set(),
    "progress": set(),
    "metrics": set(),
    "models": {"types"},
    "decoding": {"types"},
    "losses": {"types"},
    "heatmaps": {"types"},
    "data": {"types", "tokenizer"},
    "checkpoint": {"types", "models", "tokenizer", "data"},
    "predictor": EVERYTHING_BELOW | {"checkpoint"},
    "bulk": {"types", "decoding", "data", "predictor"},
    "evaluation": EVERYTHING_BELOW | {"checkpoint", "predictor"},
    "tasks": EVERYTHING_BELOW | {"checkpoint", "predictor", "evaluation"},
    "cli": EVERYTHING_BELOW | {"checkpoint", "predictor", "bulk", "evaluation", "tasks"},
    "__init__": {"predictor"},
}
FOR_ALL = {"progress", "__init__"}  # the progress bar, and the package's version
LIGHTNING_ROOMS = ("tasks/", "data/datamodule.py", "data/text_datamodule.py", "cli/train.py")
LIGHT_AT_THE_TOP = ("__init__.py", "types.py", "progress.py", "cli/")  # `captioner --help` waits for these
LIGHT_ROOMS = (  # no torch at the top
    "metrics/",
    "data/files.py",
    "data/images.py",
    "data/readers.py",
    "data/transforms.py",
    "data/shards.py",
    "data/shard_sets.py",
)
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

MODULES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py"))


def imports(module: str, top_only: bool = False) -> Iterator[str]:
    """The modules that a module imports, by their full names; those for type checking alone are left out at the top."""
    tree = ast.parse((ROOT / module).read_text(encoding="utf-8"))
    nodes = list(tree.body) if top_only else list(ast.walk(tree))
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: imports are absolute"
            assert node.module is not None
            if node.module == "captioner":  # names of the package itself, or its rooms
                yield from (f"captioner.{alias.name}" for alias in node.names)
            else:
                yield node.module


def room_of(name: str) -> str:
    """The room of a module's name: captioner.data.images -> data; of the package itself, __init__."""
    rest = name.removeprefix("captioner").lstrip(".").partition(".")[0]
    known = rest in MAY_IMPORT and rest != "__init__"
    return rest if known else "__init__"


def test_every_room_is_known():
    rooms = {module.partition("/")[0].removesuffix(".py") for module in MODULES}
    assert rooms <= MAY_IMPORT.keys()
    assert len(MODULES) > 30


@pytest.mark.parametrize("module", MODULES)
def test_a_room_reaches_no_further_than_it_may(module):
    room = module.partition("/")[0].removesuffix(".py")
    allowed = MAY_IMPORT[room] | FOR_ALL | {room}
    reached = {name for name in imports(module) if name.partition(".")[0] == "captioner"}
    too_far = sorted(name for name in reached if room_of(name) not in allowed)
    assert not too_far, f"{module} may import {sorted(allowed)} only"


@pytest.mark.parametrize("module", MODULES)
def test_lightning_stays_in_its_rooms(module):
    used = {name.partition(".")[0] for name in imports(module)} & {"pytorch_lightning", "lightning", "lightning_fabric"}
    assert not used or module.startswith(LIGHTNING_ROOMS)


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith(LIGHT_AT_THE_TOP)])
def test_what_help_waits_for_is_light(module):
    if module != "cli/train.py":
        assert not {name.partition(".")[0] for name in imports(module, top_only=True)} & HEAVY


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith(LIGHT_ROOMS)])
def test_rooms_without_torch(module):
    assert "torch" not in {name.partition(".")[0] for name in imports(module, top_only=True)}


@pytest.mark.parametrize("module", MODULES)
def test_libraries_of_cnns_are_imported_where_they_are_used(module):
    assert not {name.partition(".")[0] for name in imports(module, top_only=True)} & CNN_LIBRARIES


def test_captioning_imports_no_more_than_it_needs(tmp_path):
    """In a new process: a model of regions, which needs no CNN; then the model that ships, which needs timm's."""
    script = f"""
import sys
from captioner.models import PrecomputedRegions, UpDown
from captioner.predictor import load
UpDown(PrecomputedRegions(4).feature_dim, 10, embed_dim=8, hidden_dim=8)
print(sorted(sys.modules.keys() & {UNUSED_BY_A_MODEL_OF_REGIONS | UNUSED_BY_CAPTIONING}))
model = load(device="cpu")
from PIL import Image
assert model.caption(Image.new("RGB", (40, 30)))
print(sorted(sys.modules.keys() & {UNUSED_BY_CAPTIONING}))
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == ["[]", "[]"], done.stderr


def test_the_reader_of_imports_sees_them_all(tmp_path, monkeypatch):
    (tmp_path / "m.py").write_text(
        "import captioner.tasks as t\nfrom captioner import cli, __version__\n"
        "def f():\n    from captioner.data.images import open_image\n"
    )
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    found = list(imports("m.py"))
    assert found == ["captioner.tasks", "captioner.cli", "captioner.__version__", "captioner.data.images"]
    assert [room_of(name) for name in found] == ["tasks", "cli", "__init__", "data"]
    assert list(imports("m.py", top_only=True)) == found[:3]
