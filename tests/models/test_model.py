"""The whole model: pixels or cached memories in; it learns its pictures by heart; parts may come from outside."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from model_cases import BOS, EOS, PAD, Patches, captions_of, two_images
from torch import nn
from torch.nn import functional

from captioner.losses import CaptionLoss
from captioner.models import (
    AdaptiveDecoder,
    AdditiveAttention,
    CaptionModel,
    Decoder,
    Encoder,
    GridEncoder,
    JointEncoder,
    LuongDecoder,
    ShowAndTell,
    ShowAttendTell,
    TransformerDecoder,
    UpDown,
)
from captioner.models.attention import MultiHeadAttention

VOCAB_SIZE = 12
CAPTIONS = [[[4, 5, 6, 7, EOS], [8, EOS]], [[9, 10, 4, EOS], []]]  # two images, up to two captions


def batch(captions=CAPTIONS) -> tuple[torch.Tensor, torch.Tensor]:
    tokens = torch.full((2, 2, 6), PAD)
    tokens[..., 0] = BOS
    for image, of_image in enumerate(captions):
        for sequence, words in enumerate(of_image):
            tokens[image, sequence, 1 : len(words) + 1] = torch.tensor(words, dtype=torch.long)
    return tokens, torch.tensor([[len(words) for words in of_image] for of_image in captions])


def build(encoder: Encoder, **options) -> CaptionModel:
    torch.manual_seed(0)
    attention = functools.partial(AdditiveAttention, attention_dim=16)
    decoder = ShowAttendTell(encoder.feature_dim, VOCAB_SIZE, attention, embed_dim=24, hidden_dim=24, **options)
    return CaptionModel(encoder, decoder)


TINY = {"embed_dim": 24, "hidden_dim": 24}
SHIPPED = {"gate": "vector", "tie_embeddings": True, "normalise_features": True, "project_dim": 20}


LEARNERS = {
    ShowAttendTell: {"attention": functools.partial(AdditiveAttention, attention_dim=16), **TINY, **SHIPPED},
    ShowAndTell: TINY,
    LuongDecoder: TINY,
    AdaptiveDecoder: {"attention": functools.partial(AdditiveAttention, attention_dim=16), **TINY},
    UpDown: {
        "attention": functools.partial(AdditiveAttention, attention_dim=16),
        "normalise_features": True,
        **TINY,
    },
    TransformerDecoder: {
        "attention": functools.partial(MultiHeadAttention, num_heads=2, attention_dim=16),
        "model_dim": 24,
        "num_layers": 2,
        "num_heads": 2,
        "feedforward_dim": 32,
    },
}


@pytest.mark.parametrize("cls", LEARNERS, ids=lambda cls: cls.__name__)
def test_two_images_are_learnt_word_for_word(cls: Callable[..., Decoder]):
    torch.manual_seed(0)
    encoder = Patches()
    model = CaptionModel(encoder, cls(encoder.feature_dim, VOCAB_SIZE, dropout=0.0, **LEARNERS[cls]))
    loss, pixels = CaptionLoss(), two_images()
    tokens, lengths = batch([[CAPTIONS[0][0], []], [CAPTIONS[1][0], []]])  # one caption each
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    model.train()
    for _ in range(200):
        optimizer.zero_grad()
        sums = loss(model(pixels, tokens, lengths), tokens[..., 1:])
        sums.mean.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        if sums.logs["nll"].value < 0.1:
            break
    expected = [of_image[0][:-1] for of_image in CAPTIONS]
    assert captions_of(model, pixels) == expected
    assert captions_of(model, pixels.flip(0)) == expected[::-1]  # it is the image that says so
    assert captions_of(model, pixels, beam_size=3) == expected


@torch.no_grad()
def test_a_cached_memory_is_as_good_as_pixels(encoder):
    model, (tokens, lengths) = build(encoder).eval(), batch()
    pixels = two_images()
    memory = model.encoder(pixels)
    live, cached = model(pixels, tokens, lengths), model(memory, tokens, lengths)
    assert torch.equal(live.logits, cached.logits)
    assert torch.equal(live.alpha, cached.alpha)


@torch.no_grad()
def test_a_memory_in_half_precision_is_read_in_the_model_s_own(encoder):
    model, (tokens, lengths) = build(encoder).eval(), batch()
    memory = model.encoder(two_images())
    half = replace(memory, features=memory.features.half())
    rough = model(half, tokens, lengths).logits
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, model(memory, tokens, lengths).logits, atol=0.02, rtol=0.02)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_whole_model_changes_its_number_format(encoder, dtype):
    model, (tokens, lengths) = build(encoder).eval(), batch()
    expected = model(two_images(), tokens, lengths).logits
    found = model.to(dtype)(two_images(), tokens, lengths).logits
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), expected, atol=0.1 if dtype == torch.bfloat16 else 1e-3, rtol=0.1)


def test_encoding_prepares_and_keeps_the_grid(encoder):
    memory = build(encoder).encode(two_images())
    assert memory.grid == (4, 4)
    assert memory.keys.shape == (2, 16, 16)


def test_images_are_encoded_once_for_all_their_captions(monkeypatch):
    model, (tokens, lengths) = build(Patches()), batch()
    seen = []
    forward = Patches.forward
    monkeypatch.setattr(Patches, "forward", lambda self, pixels: seen.append(pixels.shape) or forward(self, pixels))
    model(two_images(), tokens, lengths)
    assert seen == [(2, 3, 64, 64)]


@torch.no_grad()
def test_words_are_conditioned_on_the_words_before(encoder):
    """Teacher forcing is causal: a later word changes nothing before it."""
    model, (tokens, lengths) = build(encoder).eval(), batch()
    other = tokens.clone()
    other[0, 0, 3] = 11
    first, second = model(two_images(), tokens, lengths), model(two_images(), other, lengths)
    changed = (first.logits != second.logits).any(dim=-1)
    assert first.mask.nonzero()[changed].tolist() == [[0, 0, 3], [0, 0, 4]]


def test_a_teacher_forced_caption_scores_what_its_words_do():
    model, (tokens, lengths) = build(Patches()).eval(), batch()
    output = model(two_images(), tokens, lengths)
    sums = CaptionLoss(0.0)(output, tokens[..., 1:])
    memory = model.encode(two_images())
    state, total = model.decoder.init_state(memory, 2), 0.0
    for step in range(5):
        logits, state = model.decoder.step(tokens[..., step], state, memory)
        nll = functional.cross_entropy(logits.transpose(1, 2), tokens[..., step + 1], reduction="none")
        total += nll[lengths > step].sum().item()
    assert sums.logs["nll"].total.item() == pytest.approx(total, rel=1e-5)


def test_every_trained_parameter_is_in_one_group():
    encoder = JointEncoder([GridEncoder("timm/test_efficientnet", "none", trainable_from="blocks"), Patches()], 8)
    encoder.encoders[0].weights = "package"  # as if these were trained before
    decoder = ShowAttendTell(8, 11, embed_dim=8, hidden_dim=8, normalise_features=True)
    model = CaptionModel(encoder, decoder)
    groups = {group.name: set(group.parameters) for group in model.parameter_groups()}
    assert list(groups) == ["new", "new, not decayed", "pretrained", "pretrained, not decayed"]
    assert sum(map(len, groups.values())) == sum(parameter.requires_grad for parameter in model.parameters())
    assert set.union(*groups.values()) == {parameter for parameter in model.parameters() if parameter.requires_grad}
    assert {decoder.embedding.weight, decoder.norm.weight, decoder.output.bias} <= groups["new, not decayed"]
    assert encoder.marks in groups["new, not decayed"]
    assert {decoder.word_gates.weight, encoder.projections[0].weight, encoder.encoders[1].layer.weight} <= groups["new"]
    assert all(parameter.dim() == 4 for parameter in groups["pretrained"])
