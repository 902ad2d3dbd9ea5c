"""Captions with maps and without."""

from __future__ import annotations

import pytest

from captioner.checkpoint import Bundle
from captioner.models import CaptionModel, ShowAndTell
from captioner.predictors import Captioner, Wording


def test_captions_without_maps_are_the_same(model, draw):
    [with_maps], [without] = model.caption(draw(3)), model.caption(draw(3), maps=False)
    assert (without.text, without.log_prob, without.looks) == (with_maps.text, with_maps.log_prob, ())
    with pytest.raises(ValueError, match="maps=False"):
        _ = without.maps


def test_a_model_that_does_not_attend_has_no_maps(make_bundle, draw):
    bundle = make_bundle()
    decoder = ShowAndTell(bundle.model.encoder.feature_dim, bundle.tokenizer.vocab_size, 16, 16).eval()
    blind = Captioner(Bundle(CaptionModel(bundle.model.encoder, decoder), bundle.tokenizer, bundle.transform), "cpu")
    [caption] = blind.caption(draw(0), wording=Wording(max_length=4))
    assert caption.words
    assert caption.looks == ()
    with pytest.raises(ValueError, match="does not attend"):
        _ = caption.maps
