"""Warnings of the commands."""

from __future__ import annotations

import warnings

from captioner.cli.warned import warn_in_one_line


def test_a_warning_for_the_user_is_one_line(monkeypatch):
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)  # put back afterwards
    warn_in_one_line()
    assert warnings.formatwarning("two\n  lines", UserWarning, "a.py", 3) == "captioner: warning: two lines\n"
    assert "a.py:3: RuntimeWarning: overflow" in warnings.formatwarning("overflow", RuntimeWarning, "a.py", 3)
