"""Image captioning with visual attention: a photo in; a caption, and where the model looked for every word, out.

    import captioner

    model = captioner.load()
    [caption] = model.caption("photo.jpg")
    print(caption.text, caption.maps.alpha.shape)

Read `types/` first: it is what the rooms of this package hand to one another.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from captioner.version import __version__

if TYPE_CHECKING:
    from captioner.predictors import Caption, Captioner, load

__all__ = ["Caption", "Captioner", "__version__", "load"]


def __getattr__(name: str) -> Any:
    """Import the predictor, and torch with it, when it is first asked for."""
    if name in ("Caption", "Captioner", "load"):
        return getattr(import_module("captioner.predictors"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
