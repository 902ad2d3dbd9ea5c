"""Attention as files: a figure, an animation, and the numbers for machines and for readers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO
from zipfile import BadZipFile

import numpy as np
from PIL import Image

from captioner.files import whole_file
from captioner.heatmaps.animation import animation, save_gif
from captioner.heatmaps.checks import check
from captioner.heatmaps.render import figure, heads_figure
from captioner.types import AttentionMaps, GridMaps, Kind, RegionMaps, WordMaps


def export(
    photo: Image.Image | None,
    maps: AttentionMaps,
    stem: str | Path,
    caption: str,
    smooth: bool = True,
    shared_scale: bool = False,
) -> list[Path]:
    """Write `<stem>.png`, `.gif`, `.npz` and `.json`, and `<stem>.heads.png` where the maps hold heads.

    - PNG: the photo, then one panel a word, or the matrix of a sentence (`figure`); each head's (`heads_figure`).
    - GIF: one frame a word (`animation`); none for the maps of a sentence.
    - NPZ: `kind` "grid", "regions" or "words"; `words` (T,) unicode; what the kind's class in `captioner.types` has:
      `image_size` [width, height] of the upright photo, `grid_box` [x0, y0, x1, y1] the part of it that the grid
      covers, in its pixels, `boxes` (R, 4) of the regions, in its pixels, and their `scores` (R,), `source_words` (S,)
      unicode; `alpha` float32, and `heads`, `head_names` and `sentinel` where the maps hold them.
    - JSON: the same with the caption and, for a grid, `grid` [h, w]; weights have six significant digits.

    Folders are made as needed. Each file appears whole or not at all; files of an earlier run are replaced.

    Args:
        photo: the upright photo, RGB; None for the maps of a sentence.
        maps: where the model looked in it.
        stem: the path of the outputs without suffix; dots in it are part of the name.
        caption: the caption as a reader should see it.
        smooth: Gaussian upsampling in the pictures of a grid, or its cells as they are.
        shared_scale: one scale of colours for all words of a picture instead of one for each.

    Returns:
        the files, in the order above.

    Raises:
        ValueError: for maps that are not of this photo.
        OSError: where a file cannot be written.
    """
    check(photo, maps)
    stem = Path(stem)
    arrays: dict[str, Any] = _arrays(maps)
    pictures = {".png": figure(photo, maps, caption, smooth, shared_scale)}
    if maps.heads is not None:
        pictures[".heads.png"] = heads_figure(photo, maps, caption, smooth=smooth, shared_scale=shared_scale)
    frames = [] if isinstance(maps, WordMaps) else animation(photo, maps, smooth, shared_scale)
    stem.parent.mkdir(parents=True, exist_ok=True)
    files = [_write(stem, suffix, partial(picture.save, format="PNG")) for suffix, picture in pictures.items()]
    if frames:
        files.append(_write(stem, ".gif", lambda file: save_gif(frames, file)))
    text = _to_json({"caption": np.array(caption), **arrays})
    files.append(_write(stem, ".npz", lambda file: np.savez_compressed(file, **arrays)))
    files.append(_write(stem, ".json", lambda file: file.write(text.encode("utf-8", "replace"))))
    return files


def read_maps(path: str | Path) -> AttentionMaps:
    """The maps in an `.npz` file that `export` wrote; one without a `kind` is of a grid.

    Raises:
        ValueError: where the file is not one.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return _maps(arrays)
    except (KeyError, ValueError, TypeError, EOFError, BadZipFile) as error:
        raise ValueError(f"{path} holds no attention maps; give an .npz file that `captioner heatmap` wrote") from error


def _write(stem: Path, suffix: str, write: Callable[[BinaryIO], object]) -> Path:
    """Write `<stem><suffix>`, whole or not at all."""
    path = stem.with_name(stem.name + suffix)
    with whole_file(path) as file:
        write(file)
    return path


def _arrays(maps: AttentionMaps) -> dict[str, np.ndarray]:
    """All that maps hold, by the names in the files."""
    own: dict[str, np.ndarray]
    match maps:
        case GridMaps():
            size, box = np.array(maps.image_size, dtype=np.int64), np.array(maps.grid_box, dtype=np.float64)
            own = {"kind": np.array(Kind.GRID.value), "image_size": size, "grid_box": box}
        case RegionMaps():
            size, boxes = np.array(maps.image_size, dtype=np.int64), maps.boxes.astype(np.float32)
            own = {"kind": np.array(Kind.REGIONS.value), "image_size": size, "boxes": boxes}
            if maps.scores is not None:
                own["scores"] = maps.scores.astype(np.float32)
        case WordMaps():
            own = {"kind": np.array(Kind.WORDS.value), "source_words": np.array(maps.source_words, dtype=np.str_)}
        case _:
            raise TypeError(f"maps are GridMaps, RegionMaps or WordMaps, not {type(maps).__name__}")
    weights = {"alpha": maps.alpha, "heads": maps.heads, "sentinel": maps.sentinel}
    held = {name: array.astype(np.float32) for name, array in weights.items() if array is not None}
    if maps.head_names:
        own["head_names"] = np.array(maps.head_names, dtype=np.str_)
    return {**own, "words": np.array(maps.words, dtype=np.str_), **held}


def _maps(arrays: Mapping[str, np.ndarray]) -> AttentionMaps:
    """What `_arrays` made arrays of."""
    words, alpha = tuple(arrays["words"].tolist()), arrays["alpha"]
    kind = Kind(str(arrays["kind"])) if "kind" in arrays else Kind.GRID  # there was one kind alone before
    if kind is Kind.WORDS:
        maps: AttentionMaps = WordMaps(words, alpha, tuple(arrays["source_words"].tolist()))
    else:
        width, height = arrays["image_size"].tolist()
        if kind is Kind.REGIONS:
            maps = RegionMaps(words, alpha, (width, height), arrays["boxes"], scores=arrays.get("scores"))
        else:
            x0, y0, x1, y1 = arrays["grid_box"].tolist()
            maps = GridMaps(words, alpha, (width, height), (x0, y0, x1, y1))
    names = tuple(arrays["head_names"].tolist()) if "head_names" in arrays else ()
    return replace(maps, heads=arrays.get("heads"), head_names=names, sentinel=arrays.get("sentinel"))


def _to_json(arrays: Mapping[str, np.ndarray]) -> str:
    """Arrays as JSON with a line for each row of a table."""
    fields = {name: _rows(array, "  ") for name, array in arrays.items()}
    if "grid_box" in arrays:
        fields["grid"] = json.dumps(list(arrays["alpha"].shape[1:]))
    return "{\n" + ",\n".join(f'  "{name}": {text}' for name, text in fields.items()) + "\n}\n"


def _rows(array: np.ndarray, indent: str) -> str:
    """An array as JSON, one row a line, with six significant digits of its float32 numbers."""
    if array.ndim > 1 and len(array):
        inner = indent + "  "
        return "[\n" + ",\n".join(inner + _rows(part, inner) for part in array) + f"\n{indent}]"
    if array.dtype == np.float32:
        return json.dumps([float(f"{number:.6g}") for number in array])
    return json.dumps(array.tolist(), ensure_ascii=False)
