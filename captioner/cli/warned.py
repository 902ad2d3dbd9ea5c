"""Warnings of the commands: one line each, as errors are."""

from __future__ import annotations

import warnings

_default = warnings.formatwarning


def warn_in_one_line() -> None:
    """Have a warning that is meant for the user say what it has to say, and not which line of the code says it."""
    warnings.formatwarning = _in_one_line  # type: ignore[assignment]


def _in_one_line(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    if category is UserWarning:
        return f"captioner: warning: {' '.join(str(message).split())}\n"
    return _default(message, category, filename, lineno, line)
