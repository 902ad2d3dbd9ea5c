"""Maps of words: heads, sentinels, pieces, boxes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from captioner.checkpoint import Bundle
from captioner.data.features.regions import Regions
from captioner.data.features.write_regions import write_regions
from captioner.models import AdaptiveDecoder, CaptionModel, PrecomputedRegions, TransformerDecoder, UpDown
from captioner.models.attention import MultiHeadAttention
from captioner.predictors import Captioner
from captioner.tokenizer import BytePairs
from captioner.types import RegionMaps


def test_heads_and_sentinels_are_handed_on(make_bundle, draw):
    bundle = make_bundle()
    sizes = (bundle.model.encoder.feature_dim, bundle.tokenizer.vocab_size)
    small = {"attention": lambda d, h: MultiHeadAttention(d, h, 2, 8), "embed_dim": 16, "hidden_dim": 16}
    decoder = AdaptiveDecoder(*sizes, **small).eval()
    model = Captioner(Bundle(CaptionModel(bundle.model.encoder, decoder), bundle.tokenizer, bundle.transform), "cpu")
    maps = model.look(draw(0), "a red dog").maps
    assert maps.alpha.shape == (3, 4, 4)
    assert maps.heads.shape == (3, 2, 4, 4)
    assert maps.sentinel.shape == (3,)
    np.testing.assert_allclose(maps.heads.mean(1), maps.alpha, atol=1e-6)
    np.testing.assert_allclose(maps.alpha.sum((1, 2)) + maps.sentinel, 1, atol=1e-5)


def test_a_word_of_several_pieces_has_one_map(make_bundle, draw):
    tokenizer = BytePairs(40).fit(["a dog runs", "two dogs run", "the running dog"] * 3)
    model = Captioner(make_bundle(tokenizer=tokenizer), "cpu")
    seen = model.look(draw(0), "a dog outrunning")
    assert seen.words == ("a", "dog", "outrunning")
    assert len(tokenizer.encode("a dog outrunning")) > 3
    np.testing.assert_allclose(seen.maps.alpha.sum((1, 2)), 1, atol=1e-5)


def test_boxes_and_scores_of_regions_are_in_the_photo(make_bundle, draw, tmp_path):
    bundle = make_bundle()
    tokenizer = bundle.tokenizer
    decoder = UpDown(4, tokenizer.vocab_size, embed_dim=8, hidden_dim=8)
    model = CaptionModel(PrecomputedRegions(4), decoder).eval()
    draw(0, 80, 40).save(tmp_path / "a.png")
    found = Regions(torch.rand(3, 4), torch.tensor([[0, 0, 80, 40], [8, 4, 40, 20], [40, 0, 80, 20.0]]), None, (80, 40))
    write_regions(tmp_path / "features.safetensors", {"a.png": found._replace(scores=torch.tensor([0.9, 0.5, 0.25]))})
    captioner = Captioner(Bundle(model, tokenizer, bundle.transform), "cpu", regions=tmp_path / "features.safetensors")
    maps = captioner.look(tmp_path / "a.png", "a red dog").maps
    assert isinstance(maps, RegionMaps)
    np.testing.assert_allclose(maps.boxes, found.boxes, atol=1e-4)
    np.testing.assert_allclose(maps.scores, [0.9, 0.5, 0.25], atol=1e-3)
    with pytest.raises(TypeError, match="give paths"):
        captioner.caption(draw(0))
    with pytest.raises(ValueError, match="reads region features from a file"):
        Captioner(Bundle(model, tokenizer, bundle.transform), "cpu").caption(draw(0))


def test_heads_of_layers_have_names(make_bundle, draw):
    bundle = make_bundle()
    sizes = (bundle.model.encoder.feature_dim, bundle.tokenizer.vocab_size)
    small = {"model_dim": 8, "num_layers": 2, "num_heads": 2, "feedforward_dim": 8}
    decoder = TransformerDecoder(*sizes, attention=lambda d, h: MultiHeadAttention(d, h, 2, 8), **small).eval()
    model = Captioner(Bundle(CaptionModel(bundle.model.encoder, decoder), bundle.tokenizer, bundle.transform), "cpu")
    maps = model.look(draw(0), "a red dog").maps
    assert maps.heads.shape == (3, 4, 4, 4)
    assert maps.head_names == ("layer 1, head 1", "layer 1, head 2", "layer 2, head 1", "layer 2, head 2")
