"""The memory allocator is told to keep what is freed, where it can be told."""

from __future__ import annotations

import ctypes
import sys
from types import SimpleNamespace

import pytest

from captioner.cli import allocator


@pytest.fixture
def told(monkeypatch) -> list[tuple[int, int]]:
    """What glibc is told, in place of telling it."""
    calls: list[tuple[int, int]] = []
    library = SimpleNamespace(mallopt=lambda option, value: calls.append((option, value)))
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    return calls


def test_glibc_maps_nothing_anew_and_hands_nothing_back(told, monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    allocator.keep_freed_memory()
    assert told == [(allocator.M_MMAP_MAX, 0), (allocator.M_TRIM_THRESHOLD, 2**31 - 1)]


def test_elsewhere_nothing_happens(told, monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    allocator.keep_freed_memory()
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace())  # musl has no mallopt
    allocator.keep_freed_memory()
    assert told == []
