"""Memory shared by threads: each says how much it is about to use, and waits until there is so much."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import weakref
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager


class Budget:
    """So many bytes for all threads of a process together.

    Threads are served in the order in which they come, so that large shares are not put off for ever. A share that is
    larger than all there is waits until nobody else holds any.

    Args:
        num_bytes: of all threads together.
    """

    def __init__(self, num_bytes: int) -> None:
        self.num_bytes = num_bytes
        self.begin()
        _all.add(self)

    def begin(self) -> None:
        """Forget what is held."""
        self.changed = threading.Condition()
        self.waiting: deque[object] = deque()
        self.held = 0

    @contextmanager
    def hold(self, num_bytes: int) -> Iterator[None]:
        """Hold some bytes; waits for them. Within this a thread must not ask again: two could wait for one another."""
        turn = object()
        with self.changed:
            self.waiting.append(turn)
            try:
                self.changed.wait_for(lambda: self.waiting[0] is turn and self._has_room(num_bytes))
                self.held += num_bytes
            finally:
                self.waiting.remove(turn)
                self.changed.notify_all()
        try:
            yield
        finally:
            self.give_back(num_bytes)

    def take(self, num_bytes: int) -> bool:
        """Hold some bytes until they are given back, if there are so many now."""
        with self.changed:
            has_room = not self.waiting and self._has_room(num_bytes)
            self.held += num_bytes if has_room else 0
        return has_room

    def give_back(self, num_bytes: int) -> None:
        """Let go of bytes that were taken."""
        with self.changed:
            self.held -= num_bytes
            self.changed.notify_all()

    def _has_room(self, num_bytes: int) -> bool:
        return self.held == 0 or self.held + num_bytes <= self.num_bytes


def hand_back() -> None:
    """Hand the memory that was freed back to the system.

    glibc keeps some of it for each thread, so that threads which decode large images one after another would have as
    much as if they did so at once. Elsewhere nothing happens.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def _begin_in_child() -> None:
    """A process that was forked has none of the threads that hold something."""
    for budget in _all:
        budget.begin()


_all: weakref.WeakSet[Budget] = weakref.WeakSet()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_in_child)
