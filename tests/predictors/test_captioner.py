"""Photos in, captions and maps out: the same whatever the photo comes as and whatever it shares a batch with."""

from __future__ import annotations

import io
import warnings
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from PIL import Image
from predictor_cases import same

import captioner
from captioner.checkpoint import Bundle, CheckpointError
from captioner.data import ImageError, InputError, TextTransform, open_image
from captioner.data.features.build_cache import build_cache
from captioner.data.features.identity import CacheError
from captioner.decoding import BeamSearch, DiverseBeamSearch, GreedySearch, Sampling
from captioner.models import CaptionModel, LuongDecoder, WordEncoder
from captioner.predictors import BrokenModelError, Captioner, Wording, load
from captioner.types import CaptionedImage, WordMaps


def test_anything_that_is_a_photo(model, draw, tmp_path):
    photo = draw(3)
    photo.save(tmp_path / "a.png")
    encoded = io.BytesIO()
    photo.save(encoded, "PNG")
    forms = [str(tmp_path / "a.png"), tmp_path / "a.png", photo, np.asarray(photo), encoded.getvalue()]
    [expected] = model.caption(photo)
    assert expected.words
    assert expected.text == " ".join(expected.words)
    for caption in model.caption(forms):
        same(caption, expected)
    for form in forms:
        same(*model.caption(form), expected)  # a single one, too
    same(*model.caption(iter(forms[:1])), expected)


def test_batched_equals_one_by_one(model, draw):
    photos = [draw(seed, *size) for seed, size in enumerate([(60, 40), (40, 60), (300, 20), (2, 2), (64, 64)] * 2)]
    alone = [model.caption(photo)[0] for photo in photos]
    assert len({caption.text for caption in alone}) > 3
    for batch_size in (1, 3, 99):
        for caption, expected in zip(model.caption(photos, batch_size=batch_size), alone, strict=True):
            same(caption, expected)


@pytest.mark.parametrize("beam_size", [1, 4])
@pytest.mark.parametrize("max_length", [3, 30])
def test_log_prob_and_maps_are_those_of_teacher_forcing(model, bundle, draw, beam_size, max_length):
    photos = [draw(seed) for seed in range(4)]
    for photo, caption in zip(
        photos, model.caption(photos, BeamSearch(beam_size), Wording(max_length=max_length)), strict=True
    ):
        ids = bundle.tokenizer.encode(caption.text)
        is_cut = len(ids) == max_length and max_length == 3
        tokens = torch.tensor([[[bundle.tokenizer.bos_id, *ids, bundle.tokenizer.eos_id]]])
        with torch.no_grad():
            pixels = bundle.transform(photo)[None]
            output = bundle.model(pixels, tokens, torch.tensor([[len(ids) + 1]]))
        log_probs = output.logits.log_softmax(-1).gather(1, tokens[0, 0, 1:, None])[:, 0]
        whole, cut = log_probs.sum().item(), log_probs[:-1].sum().item()
        close = [caption.log_prob == pytest.approx(value, abs=1e-4) for value in (whole, cut)]
        assert close[0] or (is_cut and close[1])
        maps = output.alpha[0, 0, : len(ids)].unflatten(-1, (4, 4)).numpy()
        np.testing.assert_allclose(caption.maps.alpha, maps, atol=1e-5)


def test_maps(model, draw):
    [caption] = model.caption(draw(1, 80, 40))
    maps = caption.maps
    assert maps.words == caption.words
    assert maps.alpha.shape == (len(caption.words), 4, 4)
    assert maps.alpha.dtype == np.float32
    np.testing.assert_allclose(maps.alpha.sum((1, 2)), 1, atol=1e-5)
    assert maps.image_size == (80, 40)
    assert maps.grid_box == (0, -20, 80, 60)  # the photo is padded to a square


@pytest.mark.parametrize("search", [BeamSearch(4), DiverseBeamSearch(4, 2), Sampling(9, seed=1)], ids=str)
def test_the_n_best_are_what_the_model_says_they_are(model, draw, search):
    [caption] = model.caption(draw(1), search, num_best=3)
    assert len(caption.others) == 2
    for other in (caption, *caption.others):
        assert other.log_prob == pytest.approx(model.look(draw(1), other.text).log_prob, abs=1e-4)
    assert len({caption.text, *(other.text for other in caption.others)}) == 3
    assert model.caption(draw(1), search)[0].others == ()


def test_look_at_its_own_caption(model, draw):
    for seed in range(4):
        [caption] = model.caption(draw(seed))
        same(model.look(draw(seed), caption.text), caption)


def test_look_at_another_caption(model, bundle, draw):
    seen = model.look(draw(0), "A zebra, on Mars!")
    assert seen.words == ("a", "zebra", "on", "mars")
    assert seen.maps.alpha.shape == (4, 4, 4)
    np.testing.assert_allclose(seen.maps.alpha.sum((1, 2)), 1, atol=1e-5)
    assert seen.log_prob == pytest.approx(model.look(draw(0), "a unicorn on venus").log_prob)  # both unknown
    with pytest.raises(ValueError, match=r"'\.\.\.' has no words"):
        model.look(draw(0), "...")


@pytest.mark.parametrize("fit", ["pad", "squash", "crop"])
def test_a_large_photo_is_seen_as_if_all_its_pixels_were_decoded(make_bundle, draw, tmp_path, fit):
    model = Captioner(make_bundle(fit=fit), "cpu")
    path = tmp_path / "large.jpg"
    draw(0, 803, 567).save(path)
    assert model.transform.photo(path).pixels.width < 803
    square = model.transform.fitted(open_image(path))  # of all pixels; it needs no fitting any more
    seen, expected = model.look(path, "a red dog"), model.look(square, "a red dog")
    assert seen.log_prob == pytest.approx(expected.log_prob, abs=0.3)
    np.testing.assert_allclose(seen.maps.alpha, expected.maps.alpha, atol=0.02)
    assert seen.maps.image_size == (803, 567)
    assert seen.maps.grid_box == model.transform.grid_box(803, 567)


def test_sample_photos_keep_their_captions(tmp_path):
    """The model that ships, on photos of 3 megapixels: decoded at half their size they have the same captions."""
    data = pytest.importorskip("skimage.data")
    model, paths = load(device="cpu"), []
    for name in ("astronaut", "coffee"):
        paths.append(tmp_path / f"{name}.jpg")
        large = Image.fromarray(getattr(data, name)()).resize((2049, 1367), Image.Resampling.BICUBIC)
        large.save(paths[-1], quality=90)
    squares = [model.transform.fitted(open_image(path)) for path in paths]
    for caption, expected in zip(model.caption(paths), model.caption(squares), strict=True):
        assert caption.text == expected.text
        assert caption.log_prob == pytest.approx(expected.log_prob, abs=0.15)
        assert caption.maps.image_size == (2049, 1367)


def test_from_a_cache(model, bundle, draw, tmp_path, monkeypatch):
    items = []
    for seed in range(4):
        draw(seed).save(tmp_path / f"{seed}.png")
        items.append(CaptionedImage(seed, tmp_path / f"{seed}.png"))
    paths = [item.path for item in items]
    expected = [model.look(path, "a dog on the grass") for path in paths]
    texts = [caption.text for caption in model.caption(paths)]
    encoder = bundle.model.encoder
    assert build_cache(tmp_path / "cache", items[:3], encoder, bundle.transform, num_workers=0) == []
    monkeypatch.setattr(type(encoder), "forward", lambda *args: pytest.fail("the encoder ran"))
    cached = Captioner(bundle, "cpu", tmp_path / "cache")
    results = [result for _, result in cached.stream(paths)]
    assert [result.text for result in results[:3]] == texts[:3]
    for path, look in zip(paths[:3], expected, strict=False):
        np.testing.assert_allclose(cached.look(path, look.text).maps.alpha, look.maps.alpha, atol=0.02)
        assert cached.look(path, look.text).maps.grid_box == look.maps.grid_box
    assert isinstance(results[3], ImageError)
    assert "3.png: is not in the cache" in str(results[3])
    with pytest.raises(TypeError, match="give paths, not Image"):
        cached.caption(draw(0))
    with pytest.raises(CacheError, match="no feature cache here"):
        Captioner(bundle, "cpu", tmp_path)


def test_nothing_in_nothing_out(model):
    assert model.caption([]) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"num_best": 6}, "num_best=6: BeamSearch"),
        ({"wording": Wording(min_length=4, max_length=3)}, "min_length=4"),
        ({"wording": Wording(required=("a unicorn",))}, "cannot say 'unicorn'"),
    ],
)
def test_settings_that_are_not_possible(model, draw, options, message):
    with pytest.raises(ValueError, match=message):
        model.stream([draw(0)], **options)  # before anything is asked for


def test_what_is_no_photo(model):
    with pytest.raises(TypeError, match="cannot open int as an image"):
        model.caption([3])


def test_half_precision_says_the_same_nearly(model, bundle, draw):
    photo = draw(3)
    [exact], [near] = model.caption(photo), Captioner(bundle, "cpu", precision="bf16").caption(photo)
    assert near.maps.alpha.dtype == np.float32
    assert near.log_prob != exact.log_prob
    look = Captioner(bundle, "cpu", precision="bf16").look(photo, exact.text)
    assert look.log_prob == pytest.approx(exact.log_prob, abs=0.05 * (1 + len(exact.words)))
    with pytest.raises(ValueError, match="precision must be fp32 or bf16, not 'fp16'"):
        Captioner(bundle, "cpu", precision="fp16")


def test_load(model_file, model, draw, tmp_path):
    loaded = captioner.load(model_file, "cpu")
    same(*loaded.caption(draw(2)), *model.caption(draw(2)))
    with pytest.raises(CheckpointError, match="no such model file"):
        captioner.load(tmp_path / "m.safetensors")


def test_the_package_has_no_other_names():
    with pytest.raises(AttributeError, match="lod"):
        captioner.lod  # noqa: B018


@pytest.fixture(scope="module")
def reader_of_sentences(tokenizer):
    """A model that reads sentences and writes captions."""
    torch.manual_seed(0)
    encoder = WordEncoder(tokenizer.vocab_size, embed_dim=6, hidden_dim=5)
    decoder = LuongDecoder(encoder.feature_dim, tokenizer.vocab_size, embed_dim=8, hidden_dim=8)
    return Captioner(Bundle(CaptionModel(encoder, decoder).eval(), tokenizer, TextTransform(tokenizer)), "cpu")


@pytest.mark.parametrize("features", [{"cache": "folder"}, {"regions": "folder"}])
def test_features_are_not_of_sentences(reader_of_sentences, features):
    model = reader_of_sentences
    with pytest.raises(ValueError, match="features are of photos, and this model reads sentences"):
        Captioner(Bundle(model.model, model.tokenizer, model.transform), "cpu", **features)


def test_sentences_in_place_of_photos(reader_of_sentences):
    sentence = "a red DOG on Mars!"
    [caption] = reader_of_sentences.caption(sentence, wording=Wording(max_length=5))
    assert isinstance(caption.maps, WordMaps)
    assert caption.maps.source_words == ("a", "red", "dog", "on", "mars")
    assert caption.maps.alpha.shape == (len(caption.words), 5)
    np.testing.assert_allclose(caption.maps.alpha.sum(1), 1, atol=1e-5)
    together = reader_of_sentences.caption(["two boys", sentence], wording=Wording(max_length=5))
    np.testing.assert_allclose(together[1].maps.alpha, caption.maps.alpha, atol=1e-5)  # padding is not to be seen


def test_a_sentence_without_words_does_not_stop_the_others(reader_of_sentences):
    results = list(reader_of_sentences.stream(["two boys", "...", "a dog"], wording=Wording(max_length=4)))
    assert [isinstance(result, InputError) for _, result in results] == [False, True, False]
    assert str(results[1][1]) == "'...': there are no words to read"


@pytest.mark.parametrize("units", [True, False])
def test_bf16_that_is_emulated_has_its_price_named(bundle, monkeypatch, units):
    monkeypatch.setattr("captioner.predictors.captioner.has_bf16", lambda device: units)
    emulated = pytest.warns(UserWarning, match="precision bf16: bf16 is emulated, as this CPU has no bfloat16 units")
    with nullcontext() if units else emulated:
        Captioner(bundle, "cpu", precision="bf16")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Captioner(bundle, "cpu")


def test_more_that_is_a_photo(model, draw, tmp_path):
    """Buffers, open files and URLs; a file is one photo, although its lines could be gone through."""
    photo = draw(3)
    photo.save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    [expected] = model.caption(photo)
    with open(tmp_path / "a.png", "rb") as file:
        forms = [bytearray(data), memoryview(data), io.BytesIO(data), file, file, f"file://{tmp_path}/a.png"]
        for form in forms:
            same(*model.caption(form), expected)
        for caption in model.caption(forms):
            same(caption, expected)
        same(model.look(file, expected.text), expected)


@pytest.mark.parametrize("search", [BeamSearch(3), DiverseBeamSearch(4, 2), Sampling(), GreedySearch()])
def test_log_probabilities_that_are_no_numbers_name_the_model(broken_model, draw, search):
    model = load(broken_model, "cpu")
    with pytest.raises(BrokenModelError, match=r"broken\.safetensors: gives a caption with the log-probability nan"):
        model.caption([draw(0), draw(1)], search)
    with pytest.raises(BrokenModelError, match="log-probability nan"):
        model.look(draw(0), "a dog")


def test_what_is_no_text_is_an_error(model, draw):
    with pytest.raises(ValueError, match=r"the caption 'a \\ud800' is no text"):
        model.look(draw(0), "a \ud800")
