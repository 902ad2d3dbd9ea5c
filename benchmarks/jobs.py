"""Jobs that must end in time: each in a process of its own, so that one that crashes, hangs or is cut harms no other.

The processes are forked from one that has imported everything and done nothing with a GPU.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from captioner.files import write_whole

GRACE = 5.0  # seconds that a job may take longer than it was given
LOOK = 0.05  # seconds between two looks at a job

Keep = Callable[[dict[str, Any]], None]
"""Takes what a job has found so far, for the case that it is cut."""


@dataclass(frozen=True)
class Job:
    """Something to be done within its share of the time.

    Attributes:
        name: of the job.
        share: of the time, beside the other jobs' shares.
        work: does it, given when it should have ended (of `time.monotonic`) and what keeps results until then; what it
            returns goes to JSON.
        at_least: seconds without which it is not begun.
        missing: why it cannot be done here; empty where it can.
    """

    name: str
    share: float
    work: Callable[[float, Keep], dict[str, Any]]
    at_least: float = 5.0
    missing: str = ""


@dataclass(frozen=True)
class Outcome:
    """How a job went.

    Attributes:
        state: "done", "failed" or "cut".
        seconds: that it took.
        result: what it returned, or has kept.
        reason: in one line why it is not done.
    """

    state: str
    seconds: float
    result: dict[str, Any]
    reason: str = ""


class FailedError(Exception):
    """A job failed, and says so in one line; what it found goes to the results all the same."""

    def __init__(self, reason: str, result: dict[str, Any]) -> None:
        super().__init__(reason)
        self.result = result


def do(job: Job, seconds: float, folder: Path) -> Outcome:
    """Do a job in a process of its own.

    Args:
        job: the job.
        seconds: when they are over it should have ended, and is ended soon after.
        folder: for its result, until it is returned, and for all that it prints, `log.txt`.
    """
    path = folder / f"{job.name}.part.json"
    started = time.monotonic()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        _be_the_job(job, started + seconds, path, folder / "log.txt")
    with _ended_with_us(child):
        status = _wait(child, started + seconds + GRACE)
    elapsed = time.monotonic() - started
    found: dict[str, Any] = {"state": "failed", "result": {}, "reason": "it came to nothing"}
    if path.is_file():
        found = json.loads(path.read_text(encoding="utf-8"))
        path.unlink()
    if status is None:
        found |= {"state": "cut", "reason": f"not done in {seconds:.0f} s"}
    elif os.WIFSIGNALED(status):
        found |= {"state": "failed", "reason": f"ended by {signal.Signals(os.WTERMSIG(status)).name}"}
    return Outcome(seconds=elapsed, **found)


def _be_the_job(job: Job, deadline: float, path: Path, log: Path) -> NoReturn:
    """In the child: do it, and leave its result."""
    code = 1
    try:
        os.setsid()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        for descriptor in (1, 2):
            os.dup2(file, descriptor)
        sys.stdout, sys.stderr = (os.fdopen(descriptor, "w", buffering=1, closefd=False) for descriptor in (1, 2))
        print(f"\n===== {job.name}", flush=True)
        kept: dict[str, Any] = {}

        def tell(state: str, result: dict[str, Any], reason: str = "") -> None:
            kept.update(result)
            write_whole(path, json.dumps({"state": state, "result": kept, "reason": reason}))

        try:
            tell("done", job.work(deadline, lambda result: tell("cut", result)))
        except FailedError as error:
            tell("failed", error.result, str(error))
        except Exception as error:
            traceback.print_exc()
            first = (str(error).strip().splitlines() or [""])[0]
            tell("failed", {}, f"{type(error).__name__}: {first}")
        code = 0
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _wait(child: int, deadline: float) -> int | None:
    """The status that a child ended with; None where it had to be ended."""
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(child, signal.SIGKILL)  # what it has left behind
            return status
        time.sleep(LOOK)
    _end(child)
    os.waitpid(child, 0)
    return None


def _end(child: int) -> None:
    """End a child and all that it has started."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGKILL)
    with suppress(ProcessLookupError, PermissionError):  # before it made itself a group's first
        os.kill(child, signal.SIGKILL)


@contextmanager
def _ended_with_us(child: int) -> Iterator[None]:
    """Whoever ends us ends the child."""

    def leave(number: int, frame: Any) -> None:
        _end(child)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, leave) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
