"""Maps that cannot be drawn: of another photo, of sizes that do not belong together, or damaged."""

from __future__ import annotations

import numpy as np
from PIL import Image

from captioner.types import AttentionMaps, GridMaps, RegionMaps, WordMaps


def check(photo: Image.Image | None, maps: AttentionMaps) -> None:
    """Refuse maps that do not belong to the photo or are damaged.

    Args:
        photo: the upright photo; not looked at for the maps of a sentence.
        maps: what is to be drawn.

    Raises:
        ValueError: where the photo is missing, sizes disagree or a number is not finite.
        TypeError: for maps of no kind that can be drawn.
    """
    match maps:
        case GridMaps():
            _check_photo(photo, maps)
            if maps.alpha.ndim != 3:
                raise ValueError(f"alpha has shape {maps.alpha.shape}; {len(maps.words)} words need T grids (T, h, w)")
            _check_weights(maps, maps.alpha.shape[1:])
        case RegionMaps():
            _check_photo(photo, maps)
            if maps.boxes.ndim != 2 or maps.boxes.shape[1] != 4 or not np.isfinite(maps.boxes).all():
                raise ValueError(f"boxes of shape {maps.boxes.shape} are no (R, 4) finite pixels x0, y0, x1, y1")
            _check_weights(maps, (len(maps.boxes),))
        case WordMaps():
            _check_weights(maps, (len(maps.source_words),))
        case _:
            raise TypeError(f"maps are GridMaps, RegionMaps or WordMaps, not {type(maps).__name__}")


def _check_photo(photo: Image.Image | None, maps: GridMaps | RegionMaps) -> None:
    if photo is None:
        raise ValueError(f"{type(maps).__name__} are drawn on their photo; only the maps of a sentence need none")
    if photo.size != tuple(maps.image_size):
        raise ValueError(
            f"the photo is {photo.size[0]}x{photo.size[1]} but the maps are of {tuple(maps.image_size)}; "
            "draw them on the upright photo at its full size"
        )


def _check_weights(maps: AttentionMaps, places: tuple[int, ...]) -> None:
    """Refuse weights that are not (T, *places), heads that are not (T, N, *places), and a sentinel that is not (T,)."""
    num_words = len(maps.words)
    if 0 in places:
        raise ValueError(f"alpha has shape {maps.alpha.shape}; a memory has at least one place to look at")
    if maps.alpha.shape != (num_words, *places):
        raise ValueError(f"alpha has shape {maps.alpha.shape}; {num_words} words need {(num_words, *places)}")
    if maps.heads is not None and maps.heads.shape != (num_words, *maps.heads.shape[1:2], *places):
        raise ValueError(f"heads have shape {maps.heads.shape}; {num_words} words need N heads of {places} for each")
    if maps.sentinel is not None and maps.sentinel.shape != (num_words,):
        raise ValueError(f"sentinel has shape {maps.sentinel.shape}; {num_words} words need {(num_words,)}")
    for name, weights in (("alpha", maps.alpha), ("heads", maps.heads), ("sentinel", maps.sentinel)):
        if weights is not None and not np.isfinite(weights).all():
            raise ValueError(f"{name} holds weights that are not finite numbers; the model's weights may be broken")
