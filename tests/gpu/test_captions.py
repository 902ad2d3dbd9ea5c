"""The shipped model on a GPU: the captions and maps that it gives on a CPU."""

from __future__ import annotations

import numpy as np
import pytest

from captioner import load
from captioner.decoding import BeamSearch, GreedySearch

SEARCHES = {"greedy": GreedySearch(), "beam 3": BeamSearch(3), "beam 5": BeamSearch(5)}


@pytest.fixture(scope="module")
def photos(request):
    """The free photos of scikit-image where it is there, and drawn ones."""
    drawn = [request.getfixturevalue("draw")(seed, 300, 200) for seed in range(4)]
    if request.getfixturevalue("device").type == "cpu":
        return drawn[:2]
    try:
        from skimage import data
    except ImportError:
        return drawn
    return [data.astronaut(), data.chelsea(), data.coffee(), data.rocket(), *drawn]


@pytest.fixture(scope="module")
def on_cpu():
    return load(device="cpu")


@pytest.fixture(scope="module")
def on_gpu(device):
    return load(device=str(device))


@pytest.mark.parametrize("name", SEARCHES)
def test_captions_and_maps_are_those_of_a_cpu(on_cpu, on_gpu, photos, name):
    """Word for word in single precision."""
    expected = on_cpu.caption(photos, SEARCHES[name])
    for found, caption in zip(on_gpu.caption(photos, SEARCHES[name]), expected, strict=True):
        assert found.text == caption.text
        assert found.log_prob == pytest.approx(caption.log_prob, abs=1e-3)
        np.testing.assert_allclose(found.maps.alpha, caption.maps.alpha, atol=1e-4)


def test_alone_as_in_a_batch(on_gpu, photos):
    together = on_gpu.caption(photos)
    alone = [on_gpu.caption(photo)[0] for photo in photos]
    assert [caption.text for caption in alone] == [caption.text for caption in together]


def test_bfloat16_finds_captions_nearly_as_likely(on_gpu, device, photos):
    half = load(device=str(device), precision="bf16")
    for photo in (photos[0], photos[-1]):
        [caption] = on_gpu.caption(photo)
        near = half.look(photo, caption.text)
        assert near.log_prob == pytest.approx(caption.log_prob, abs=0.1 * (1 + len(caption.words)))
