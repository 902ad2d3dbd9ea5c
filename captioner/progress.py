"""The one progress bar. It is on a terminal's stderr only, so that logs and pipes stay clean."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.progress import Progress

LOG_INTERVAL = 30.0  # seconds between two lines of progress where there is no terminal


class Bar(Protocol):
    """A running bar."""

    def advance(self, steps: int = 1) -> None:
        """Move on."""

    def say(self, line: str) -> None:
        """Print one line on stderr, unwrapped, above the bar."""


@contextmanager
def progress_bar(label: str, total: int | None, visible: bool = True) -> Iterator[Bar]:
    """Show how far a loop has come.

    Args:
        label: what is being done.
        total: how many steps there are; None if that is not known.
        visible: False for no bar even on a terminal.
    """
    if not (visible and sys.stderr.isatty()):
        yield _NoBar()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        redirect_stdout=False,  # what a command prints must reach its pipe as it is
        redirect_stderr=False,
    )
    with progress:
        yield _RichBar(progress, label, total)


class _NoBar:
    def advance(self, steps: int = 1) -> None:
        """Nothing to show."""

    def say(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)


class _RichBar:
    def __init__(self, progress: Progress, label: str, total: int | None) -> None:
        self.progress = progress
        self.task = progress.add_task(label, total=total)

    def advance(self, steps: int = 1) -> None:
        self.progress.advance(self.task, steps)

    def say(self, line: str) -> None:
        self.progress.console.print(line, soft_wrap=True, markup=False, highlight=False)


@contextmanager
def logged_progress(label: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal, a line every half minute in a log; yields a function that counts on."""
    with progress_bar(label, total) as bar:
        done, last = 0, time.monotonic()

        def advance(count: int) -> None:
            nonlocal done, last
            done += count
            bar.advance(count)
            if not sys.stderr.isatty() and time.monotonic() - last > LOG_INTERVAL:
                last = time.monotonic()
                bar.say(f"{label}: {done:,} of {total:,}")

        yield advance
