"""Seeds derived from what they are used for."""

from __future__ import annotations

import hashlib


def stable_seed(*parts: int | str) -> int:
    """A seed of 63 bits made from these parts, the same on every machine and in every process."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big") >> 1
