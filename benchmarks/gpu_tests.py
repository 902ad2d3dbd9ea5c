"""A plugin of pytest's that keeps each test's outcome as it comes, skips those that have passed, and ends in time."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from benchmarks.jobs import Keep


class Outcomes:
    """See the module.

    Args:
        before: the outcomes of an earlier run.
        keep: takes `{"tests": states}` after each test.
        deadline: no test is begun after it, by `time.monotonic`.

    Attributes:
        states: "passed", "failed" or "skipped" of each test, by its name.
        reasons: why tests failed, in a line each.
        is_late: whether tests were left out because time was over.
    """

    def __init__(self, before: Mapping[str, str], keep: Keep, deadline: float) -> None:
        self.states = {name: state for name, state in before.items() if state == "passed"}
        self.reasons: dict[str, str] = {}
        self.keep = keep
        self.deadline = deadline
        self.is_late = False

    def pytest_collection_modifyitems(self, config: Any, items: list[Any]) -> None:
        """Leave out what has passed; what is compiled, which takes longest, comes last."""
        passed = [item for item in items if self.states.get(_name(item.nodeid)) == "passed"]
        config.hook.pytest_deselected(items=passed)
        left = [item for item in items if item not in passed]
        items[:] = sorted(left, key=lambda item: "compiled" in item.nodeid)

    def pytest_runtest_setup(self, item: Any) -> None:
        """End where time is over."""
        if time.monotonic() > self.deadline:
            self.is_late = True
            item.session.shouldstop = "the time is over"
            import pytest

            pytest.skip("the time is over")

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Keep an outcome: a test has failed if any of its phases has."""
        if self.is_late:
            return
        name = _name(report.nodeid)
        if report.failed or report.skipped or report.when == "call":
            self.states[name] = report.outcome
        if report.failed:
            crash = getattr(report.longrepr, "reprcrash", None)
            self.reasons[name] = (str(crash.message if crash else report.longrepr).strip().splitlines() or [""])[0]
        self.keep({"tests": self.states, "reasons": self.reasons})


def _name(nodeid: str) -> str:
    """A test's name without its file."""
    return nodeid.partition("::")[2]
