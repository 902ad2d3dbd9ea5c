"""Start-up: what the command, the package and a first caption take, each in a fresh process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.workload import make_photo

CAPTION = (
    "import sys; from captioner.cli.main import main; assert main(['caption', {photo!r}, '--device', {device!r}]) == 0"
)
LIST_MODULES = "; import json; print(json.dumps(list(sys.modules)), file=sys.stderr)"
IMPORT_ALL = """
import importlib, sys
for name in {modules!r}:
    try:
        importlib.import_module(name)
    except Exception:  # a module that cannot be imported by itself is imported by another
        pass
"""


def start_up(rounds: int, device: str, folder: Path, say: Callable[[str], None]) -> dict[str, list[float]]:
    """Seconds of each kind of process, round by round."""
    photo = folder / "photo.jpg"
    make_photo(0).save(photo, quality=90)
    caption = CAPTION.format(photo=str(photo), device=device)
    modules = json.loads(_run(caption + LIST_MODULES).stderr.splitlines()[-1])
    imports = IMPORT_ALL.format(modules=[name for name in modules if not name.startswith("__")])
    programs = {
        "python, nothing else": "pass",
        "captioner --help": "from captioner.cli.main import main; main(['--help'])",
        "import captioner": "import captioner",
        "import torch": "import torch",
        "a first caption": caption,
        "the imports of a first caption": imports,
    }
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for number in range(rounds + 1):  # the first round warms the disk's cache
        for name, program in programs.items():
            start = time.perf_counter()
            _run(program)
            if number:
                seconds[name].append(time.perf_counter() - start)
    pairs = zip(seconds["a first caption"], seconds["the imports of a first caption"], strict=True)
    seconds["a first caption beyond its imports"] = [whole - imports for whole, imports in pairs]
    say("  " + ", ".join(f"{name} {values[-1]:.2f} s" for name, values in seconds.items()))
    return seconds


def _run(program: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)
