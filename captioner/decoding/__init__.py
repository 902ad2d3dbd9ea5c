"""Decoding: from a decoder's `step` to captions, for a batch of images at once.

A search knows `step` (see `captioner.types`) and nothing else: no image, no memory, no model. The
memory is closed over in `step`, one copy per image however many sequences a search keeps.

Reading order: `search.py` (the searches, as a config names them), `rules.py` (what every caption must obey),
`constraints.py` (what else one may ask of it; `phrases.py` does the counting), `rollout.py`, `greedy.py` and
`sampling.py` (one word after another), `beam.py` (the best few prefixes at once, in groups if one likes),
`common.py` (what they share).
"""

from captioner.decoding.beam import beam_search
from captioner.decoding.constraints import ForbiddenWords, NoBadEndings, NoRepeatedNgrams, RequiredWords
from captioner.decoding.greedy import greedy_search
from captioner.decoding.rollout import roll_out
from captioner.decoding.rules import Constraint, Rules
from captioner.decoding.sampling import sample
from captioner.decoding.search import BeamSearch, DiverseBeamSearch, GreedySearch, Sampling, Search

__all__ = [
    "BeamSearch",
    "Constraint",
    "DiverseBeamSearch",
    "ForbiddenWords",
    "GreedySearch",
    "NoBadEndings",
    "NoRepeatedNgrams",
    "RequiredWords",
    "Rules",
    "Sampling",
    "Search",
    "beam_search",
    "greedy_search",
    "roll_out",
    "sample",
]
