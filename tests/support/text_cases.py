"""A few pairs of sentences."""

from __future__ import annotations

PAIRS = [
    ("ein Hund", "a dog"),
    ("eine rote Katze", "a red cat"),
    ("ein Haus", "a house"),
    ("ein rotes Haus", "a red house"),
]
