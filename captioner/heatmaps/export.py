"""Attention as files: a figure, an animation, and the numbers for machines and for readers."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO
from zipfile import BadZipFile

import numpy as np
from PIL import Image

from captioner.heatmaps.animation import animation, save_gif
from captioner.heatmaps.render import check, figure
from captioner.types import AttentionMaps


def export(
    photo: Image.Image,
    maps: AttentionMaps,
    stem: Path,
    caption: str,
    smooth: bool = True,
    shared_scale: bool = False,
) -> list[Path]:
    """Write `<stem>.png`, `<stem>.gif`, `<stem>.npz` and `<stem>.json`.

    - PNG: the photo, then one panel a word (`figure`). GIF: one frame a word (`animation`).
    - NPZ: `alpha` (T, h, w) float32, `words` (T,) unicode, `image_size` [width, height] of the upright photo,
      `grid_box` [x0, y0, x1, y1], the part of it that the grid covers, in its pixels.
    - JSON: the same with the caption and `grid` [h, w]; weights have six significant digits.

    Folders are made as needed. Each file appears whole or not at all; files of an earlier run are replaced.

    Args:
        photo: the upright photo, RGB.
        maps: where the model looked in it.
        stem: the path of the outputs without suffix; dots in it are part of the name.
        caption: the caption as a reader should see it.
        smooth: Gaussian upsampling in the pictures, or the grid's cells as they are.
        shared_scale: one scale of colours for all words of a picture instead of one for each.

    Returns:
        the four files.

    Raises:
        ValueError: for maps that are not of this photo.
        OSError: where a file cannot be written.
    """
    check(photo, maps)
    page = figure(photo, maps, caption, smooth, shared_scale)
    frames = animation(photo, maps, smooth, shared_scale)
    stem.parent.mkdir(parents=True, exist_ok=True)
    return [
        _write(stem, ".png", lambda file: page.save(file, format="PNG")),
        _write(stem, ".gif", lambda file: save_gif(frames, file)),
        _write(stem, ".npz", lambda file: _save_arrays(maps, file)),
        _write(stem, ".json", lambda file: file.write(_to_json(maps, caption).encode("utf-8", "replace"))),
    ]


def read_maps(path: Path) -> AttentionMaps:
    """The maps in an `.npz` file that `export` wrote.

    Raises:
        ValueError: where the file is not one.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            width, height = arrays["image_size"].tolist()
            x0, y0, x1, y1 = arrays["grid_box"].tolist()
            return AttentionMaps(
                words=tuple(arrays["words"].tolist()),
                alpha=arrays["alpha"],
                image_size=(width, height),
                grid_box=(x0, y0, x1, y1),
            )
    except (KeyError, ValueError, TypeError, EOFError, BadZipFile) as error:
        raise ValueError(f"{path} holds no attention maps; give an .npz file that `captioner heatmap` wrote") from error


def _write(stem: Path, suffix: str, write: Callable[[BinaryIO], object]) -> Path:
    """Write `<stem><suffix>` under another name first, so that a kill leaves no half file."""
    path = stem.with_name(stem.name + suffix)
    unfinished = stem.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        with unfinished.open("wb") as file:
            write(file)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
    return path


def _save_arrays(maps: AttentionMaps, file: BinaryIO) -> None:
    np.savez_compressed(
        file,
        alpha=maps.alpha.astype(np.float32),
        words=np.array(maps.words, dtype=np.str_),
        image_size=np.array(maps.image_size, dtype=np.int64),
        grid_box=np.array(maps.grid_box, dtype=np.float64),
    )


def _to_json(maps: AttentionMaps, caption: str) -> str:
    """The maps as JSON with a line for each row of the grid."""
    grids = []
    for grid in maps.alpha:
        rows = [json.dumps([float(f"{weight:.6g}") for weight in row]) for row in grid]
        grids.append("    [\n      " + ",\n      ".join(rows) + "\n    ]")
    alpha = "[\n" + ",\n".join(grids) + "\n  ]" if grids else "[]"
    fields = {
        "caption": json.dumps(caption, ensure_ascii=False),
        "words": json.dumps(list(maps.words), ensure_ascii=False),
        "image_size": json.dumps([int(side) for side in maps.image_size]),
        "grid_box": json.dumps([float(edge) for edge in maps.grid_box]),
        "grid": json.dumps(list(maps.alpha.shape[1:])),
        "alpha": alpha,
    }
    return "{\n" + ",\n".join(f'  "{key}": {value}' for key, value in fields.items()) + "\n}\n"
