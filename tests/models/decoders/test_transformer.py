"""The transformer's decoder against its equations, recomputed from scratch for every word; and what a step costs."""

from __future__ import annotations

import functools
import math

import pytest
import torch
from torch import nn

from captioner.models import AdditiveAttention, Attention, TransformerDecoder
from captioner.models.attention import MultiHeadAttention
from captioner.types import Memory

MULTI_HEAD = functools.partial(MultiHeadAttention, num_heads=2, attention_dim=6)
ADDITIVE = functools.partial(AdditiveAttention, attention_dim=9)
SMALL = {"attention": MULTI_HEAD, "model_dim": 8, "num_layers": 2, "num_heads": 4, "feedforward_dim": 12}
NUM_WORDS = 6


def build(**options) -> TransformerDecoder:
    torch.manual_seed(0)
    return TransformerDecoder(6, 13, **SMALL | options).double().eval()


def linear(layer, vector):
    return layer.weight @ vector + (0 if layer.bias is None else layer.bias)


def normalised(norm, vector):
    centred = vector - vector.mean()
    return centred / (centred.square().mean() + norm.eps).sqrt() * norm.weight + norm.bias


def weighted_mean(query, keys, values):
    """Attention of one head for one query: the mean of values and the weights."""
    energies = torch.stack([(query @ key / math.sqrt(len(query))).exp() for key in keys])
    alpha = energies / energies.sum()
    return sum(weight * value for weight, value in zip(alpha, values, strict=True)), alpha


def among_words(layer, vectors):
    """Self-attention of the last of some vectors to all of them."""
    query = linear(layer.queries, vectors[-1]).chunk(layer.num_heads)
    both = [linear(layer.keys_values, vector).chunk(2) for vector in vectors]
    means = []
    for head in range(layer.num_heads):
        keys, values = ([part.chunk(layer.num_heads)[head] for part in parts] for parts in zip(*both, strict=True))
        means.append(weighted_mean(query[head], keys, values)[0])
    return linear(layer.joined, torch.cat(means))


def at_the_image(look, query, annotations):
    """What one layer sees, and its heads' weights (N, L)."""
    if isinstance(look, AdditiveAttention):
        compared = [linear(look.key, vector) + linear(look.query, query) for vector in annotations]
        energies = torch.stack([(look.energy.weight[0] @ vector.tanh()).exp() for vector in compared])
        alpha = energies / energies.sum()
        return alpha @ annotations, alpha[None]
    means, alphas = [], []
    for head in range(look.num_heads):
        keys, values = (
            [linear(part, vector).chunk(look.num_heads)[head] for vector in annotations]
            for part in (look.key, look.value)
        )
        mean, alpha = weighted_mean(linear(look.query, query).chunk(look.num_heads)[head], keys, values)
        means.append(mean)
        alphas.append(alpha)
    return linear(look.output, torch.cat(means)), torch.stack(alphas)


def place(decoder, number):
    """The vector of a word's place."""
    if decoder.positions == "learned":
        return decoder.position.weight[number]
    angles = [number / 10_000 ** (2 * pair / decoder.model_dim) for pair in range(decoder.model_dim // 2)]
    return torch.tensor([f(angle) for angle in angles for f in (math.sin, math.cos)], dtype=torch.float64)


def tell(decoder, annotations, words):
    """One caption of one image by the equations; see `Tell`. Nothing is kept from one word to the next."""
    if decoder.norm is not None:
        annotations = torch.stack([normalised(decoder.norm, vector) for vector in annotations])
    annotations = torch.stack([linear(decoder.projection, vector).clamp(min=0) for vector in annotations])
    logits, alphas = [], []
    for length in range(1, len(words) + 1):
        vectors = [
            decoder.embedding.weight[word] * math.sqrt(decoder.model_dim) + place(decoder, number)
            for number, word in enumerate(words[:length])
        ]
        heads = []
        for layer in decoder.layers:
            normed = [normalised(layer.norms[0], vector) for vector in vectors]
            after = []
            for number, vector in enumerate(vectors):
                vector = vector + among_words(layer, normed[: number + 1])
                seen, alpha = at_the_image(layer.look, normalised(layer.norms[1], vector), annotations)
                vector = vector + seen
                inside = linear(layer.feedforward[0], normalised(layer.norms[2], vector)).clamp(min=0)
                after.append(vector + linear(layer.feedforward[3], inside))
            vectors = after
            heads.append(alpha)
        matrix = decoder.embedding.weight if decoder.tie_embeddings else decoder.output.weight
        logits.append(matrix @ normalised(decoder.final_norm, vectors[-1]) + decoder.output.bias)
        alphas.append(torch.cat(heads))
    heads = torch.stack(alphas)  # (T, layers * N, L)
    return {"logits": torch.stack(logits), "alpha": heads.mean(1), "heads": heads}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"positions": "learned", "max_words": 6, "tie_embeddings": False, "normalise_features": True},
        {"attention": ADDITIVE, "num_layers": 1},
    ],
    ids=["paper", "options", "another scorer"],
)
def test_it_is_the_equations(options, assert_equations):
    # the places of words are computed in single precision
    assert_equations(build(**options), tell, 1e-9 if "positions" in options else 1e-5)


def one_image(num_images: int = 2) -> Memory:
    return Memory.from_grid(torch.randn(num_images, 6, 2, 2, dtype=torch.float64))


def test_a_later_word_changes_nothing_before_it():
    decoder, lengths = build(), torch.full((2, 1), NUM_WORDS)
    memory = decoder.prepare(one_image())
    tokens = torch.randint(13, (2, 1, NUM_WORDS + 1))
    before = decoder(memory, tokens, lengths)
    for changed in range(NUM_WORDS):
        others = tokens.clone()
        others[..., changed] = (others[..., changed] + 1) % 13
        after = decoder(memory, others, lengths)
        same = (before.logits == after.logits).all(dim=-1).view(2, NUM_WORDS)
        assert same[:, :changed].all()
        assert not same[:, changed:].any()


def test_a_step_reads_one_word_and_keeps_the_others(monkeypatch):
    """Step t costs O(t): every layer works on one word alone, and only its attention goes over those before."""
    decoder = build()
    memory = decoder.prepare(one_image())
    read: list[int] = []
    for layer in decoder.modules():
        if isinstance(layer, nn.Linear | nn.LayerNorm):
            layer.register_forward_hook(lambda layer, given, result: read.append(given[0].shape[:-1].numel()))
    monkeypatch.setattr(Attention, "prepare", None)
    state = decoder.init_state(memory, 3)
    for step in range(NUM_WORDS):
        assert state["past"].shape == (2, 3, step, 2 * 8 * 2)
        kept = state["past"]
        _, state = decoder.step(torch.full((2, 3), step), state, memory)
        assert torch.equal(state["past"][:, :, :step], kept)
        assert set(read) == {2 * 3}
        read.clear()


def test_learned_positions_end_somewhere():
    decoder = build(positions="learned", max_words=4)
    memory = decoder.prepare(one_image())
    with pytest.raises(ValueError, match="caption of 5 words is longer than the learned positions: raise max_words"):
        decoder(memory, torch.ones(2, 1, 6, dtype=torch.long), torch.tensor([[5], [1]]))
    state = decoder.init_state(memory, 1)
    word = torch.ones(2, 1, dtype=torch.long)
    for _ in range(4):
        _, state = decoder.step(word, state, memory)
    with pytest.raises(ValueError, match="raise max_words"):
        decoder.step(word, state, memory)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"positions": "rotary"}, "'rotary' is not one of sinusoidal, learned"),
        ({"num_heads": 3}, "model_dim 8 must be even and a multiple of num_heads 3"),
        ({"model_dim": 9, "num_heads": 3}, "model_dim 9 must be even"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)


def test_tied_embeddings_are_one_matrix():
    tied, loose = build(), build(tie_embeddings=False)
    assert tied.output.weight is tied.embedding.weight
    assert loose.output.weight is not loose.embedding.weight
