"""Predictors: photos in; captions and where the model looked for every word, out.

Reading order: `captioner.py` (the whole of it), `caption.py` (what comes out), `wording.py` (what it must obey),
`maps.py` (where the model looked), `reading.py` (photos, ahead of the model).
"""

from captioner.predictors.caption import Alternative, Caption
from captioner.predictors.captioner import SHIPPED_MODEL, BrokenModelError, Captioner, Precision, load
from captioner.predictors.wording import Wording, require_text

__all__ = [
    "SHIPPED_MODEL",
    "Alternative",
    "BrokenModelError",
    "Caption",
    "Captioner",
    "Precision",
    "Wording",
    "load",
    "require_text",
]
