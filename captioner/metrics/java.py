"""The Java programs inside pycocoevalcap: where Java is, and how a program of its is started."""

from __future__ import annotations

import functools
import importlib.util
import shutil
import subprocess
from pathlib import Path

PATIENCE = 60.0  # seconds that Java may take to start


class JavaError(OSError):
    """A Java program did not start or did not do its work; the message is one line."""


def find_java() -> str | None:
    """The path of a Java that starts, or None.

    A `java` that only says how to install Java (as on a fresh macOS) counts as none.

    Raises:
        JavaError: when there is one that does not answer in `PATIENCE` seconds.
    """
    java = shutil.which("java")
    return java if java is not None and _starts(java) else None


@functools.cache
def _starts(java: str) -> bool:
    """Whether a Java starts, asked once; with files that nobody reads, as a pipe could stay open when it is killed."""
    quiet = subprocess.DEVNULL
    try:
        return subprocess.run([java, "-version"], stdout=quiet, stderr=quiet, timeout=PATIENCE).returncode == 0
    except OSError:
        return False
    except subprocess.TimeoutExpired as error:
        raise JavaError(
            f"Java did not answer in {PATIENCE:g} s ({java} -version): the machine may be too busy; run it again"
        ) from error


def java_command(*arguments: str) -> list[str]:
    """A Java command line that reads UTF-8 and writes plain numbers whatever the machine's locale.

    Raises:
        JavaError: when there is no Java that starts.
    """
    java = find_java()
    if java is None:
        raise JavaError("Java was not found or does not start; install a Java runtime (8 or later)")
    return [java, "-Dfile.encoding=UTF-8", "-Duser.language=en", *arguments]


def first_message(stderr: bytes) -> str:
    """The line that says what went wrong in what a Java program wrote to stderr."""
    lines = stderr.decode("utf-8", "replace").splitlines()
    told = [line.strip() for line in lines if line.strip() and not line.startswith("Picked up ")]
    return told[0] if told else "no message"


def pycocoevalcap_file(*parts: str) -> Path:
    """The path of a file that pycocoevalcap's wheel carries."""
    spec = importlib.util.find_spec("pycocoevalcap")
    folders = spec.submodule_search_locations if spec is not None else None
    candidates = [Path(folder, *parts).absolute() for folder in folders or ()]
    for path in candidates:
        if path.is_file():
            return path
    raise JavaError(f"pycocoevalcap's file {'/'.join(parts)} is missing; install pycocoevalcap again")
