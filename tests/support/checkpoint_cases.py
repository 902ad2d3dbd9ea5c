"""Models to save, and what they say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from captioner.checkpoint import CheckpointError, load_model
from captioner.decoding import BeamSearch
from captioner.predictors import Captioner


def refused(path: Path, data: bytes, match: str) -> None:
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=match) as caught:
        load_model(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def photos(draw) -> list[np.ndarray]:
    return [np.asarray(draw(seed)) for seed in range(6)]


def said(bundle, draw) -> list[tuple]:
    captions = Captioner(bundle, "cpu").caption(photos(draw), BeamSearch(3))
    return [(caption.text, caption.log_prob, caption.maps.alpha.tobytes()) for caption in captions]
