"""Decoding: from a decoder's `step` to captions, for a batch of images at once.

A search knows `step` (see `captioner.types`) and nothing else: no image, no memory, no model. The
memory is closed over in `step`, one copy per image however many sequences a search keeps.

Reading order: `rules.py` (what every caption must obey), `rollout.py` and `greedy.py` (one word after
another), `beam.py` (the best few prefixes at once), `common.py` (what they share).
"""

from captioner.decoding.beam import beam_search
from captioner.decoding.greedy import greedy_search
from captioner.decoding.rollout import roll_out
from captioner.decoding.rules import Rules

__all__ = ["Rules", "beam_search", "greedy_search", "roll_out"]
