"""What captions must obey."""

from __future__ import annotations

import pytest
from predictor_cases import same

from captioner.decoding import BeamSearch, DiverseBeamSearch, GreedySearch, Sampling
from captioner.predictors import Wording


def test_lengths(model, draw):
    photos = [draw(seed) for seed in range(4)]
    assert {len(caption.words) for caption in model.caption(photos, wording=Wording(6, 6))} == {6}
    assert max(len(caption.words) for caption in model.caption(photos, wording=Wording(max_length=2))) <= 2


def test_wording_is_in_words(model, draw):
    photos = [draw(seed) for seed in range(4)]
    plain = model.caption(photos)
    ends = {caption.words[-1] for caption in plain}
    wording = Wording(forbidden=(plain[0].words[0],), required=("white house",), bad_endings=tuple(ends), no_repeat=2)
    for search in (BeamSearch(), GreedySearch(), Sampling(), DiverseBeamSearch()):
        for caption in model.caption(photos, search, wording):
            assert plain[0].words[0] not in caption.words
            assert "white house" in caption.text
            assert caption.words[-1] not in ends
            pairs = list(zip(caption.words, caption.words[1:], strict=False))
            assert len(set(pairs)) == len(pairs)


def test_wording_that_cannot_be(model, draw):
    with pytest.raises(ValueError, match=r"required='dog' must be a tuple of texts: \('dog',\)"):
        Wording(required="dog")
    with pytest.raises(ValueError, match="'red dog' is required, and 'dog' is forbidden"):
        Wording(required=("red dog",), forbidden=("cat", "dog"))
    plain = model.caption(draw(0))
    same(*model.caption(draw(0), wording=Wording(forbidden=("xylophone",), bad_endings=("of a unicorn",))), *plain)
