"""Memory shared by threads: each says how much it is about to use, and waits until there is so much."""

from __future__ import annotations

import os
import threading
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
        self._begin()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._begin)  # whose threads are gone, with what they held

    def _begin(self) -> None:
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
            with self.changed:
                self.held -= num_bytes
                self.changed.notify_all()

    def _has_room(self, num_bytes: int) -> bool:
        return self.held == 0 or self.held + num_bytes <= self.num_bytes
