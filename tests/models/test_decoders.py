"""The contract of every decoder, over its configurations; and Show, Attend and Tell against its equations."""

from __future__ import annotations

import functools
import importlib
import inspect
import pkgutil
from dataclasses import replace

import pytest
import torch
from torch import nn

import captioner.models
from captioner.models import AdditiveAttention, Decoder, ShowAttendTell
from captioner.types import Memory

FEATURE_DIM, VOCAB_SIZE, NUM_LOCATIONS = 6, 13, 5
LENGTHS = torch.tensor([[6, 4, 1], [4, 3, 0], [2, 2, 2]])  # longest first, as batches come
NUM_WORDS = 6

scorer = functools.partial(AdditiveAttention, attention_dim=7)
small = {"attention": scorer, "embed_dim": 8, "hidden_dim": 8}
OPTIONS = {
    ShowAttendTell: {
        "paper": {"output_tanh": False, "gated_output": False},
        "authors": {},
        "sizes": {"embed_dim": 9, "hidden_dim": 10},
        "no gate": {"gate": "none"},
        "vector gate": {"gate": "vector"},
        "vector gate, output not gated": {"gate": "vector", "gated_output": False},
        "plain output": {"deep_output": False},
        "plain output, not square": {"deep_output": False, "embed_dim": 9},
        "tied": {"tie_embeddings": True},
        "tied, sizes": {"tie_embeddings": True, "hidden_dim": 10},
        "tied, plain output": {"tie_embeddings": True, "deep_output": False},
        "normalised": {"normalise_features": True},
        "projected": {"project_dim": 11},
        "shipped": {"gate": "vector", "tie_embeddings": True, "normalise_features": True, "project_dim": 8},
    }
}


def all_decoders() -> list[type[Decoder]]:
    """Every decoder of the package that can be built."""
    for module in pkgutil.walk_packages(captioner.models.__path__, "captioner.models."):
        importlib.import_module(module.name)
    found, queue = [], [Decoder]
    while queue:
        queue += (children := queue.pop().__subclasses__())
        found += [cls for cls in children if cls.__module__.startswith("captioner.") and not inspect.isabstract(cls)]
    return sorted(found, key=lambda cls: cls.__qualname__)


def build(cls: type[Decoder], options: dict, dtype=torch.float64) -> Decoder:
    torch.manual_seed(0)
    return cls(FEATURE_DIM, VOCAB_SIZE, **(small if cls is ShowAttendTell else {}) | options).to(dtype).eval()


@pytest.fixture(
    params=[
        pytest.param((cls, options), id=f"{cls.__name__}, {name}")
        for cls in all_decoders()
        for name, options in OPTIONS.get(cls, {"default": {}}).items()
    ]
)
def decoder(request):
    """Every decoder in every configuration, in evaluation mode and double precision."""
    return build(*request.param)


def random_memory(num_real=(5, 3, 1), dtype=torch.float64) -> Memory:
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(len(num_real), NUM_LOCATIONS, FEATURE_DIM, generator=generator, dtype=torch.float64)
    return Memory(features.to(dtype), torch.arange(NUM_LOCATIONS) < torch.tensor(num_real)[:, None])


def random_tokens(num_images=3, num_sequences=3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randint(VOCAB_SIZE, (num_images, num_sequences, NUM_WORDS + 1), generator=generator)


def spread(output, values):
    """Rows of the real words at their places (B, K, T, ...)."""
    return values.new_zeros((*output.mask.shape, *values.shape[1:])).index_put(
        output.mask.nonzero(as_tuple=True), values
    )


def test_the_decoders_are_found():
    assert ShowAttendTell in all_decoders()


# ------------------------------------------------------------------------------------------------ every decoder


def test_shapes(decoder):
    memory = decoder.prepare(random_memory())
    output = decoder(memory, random_tokens(), LENGTHS)
    assert decoder.vocab_size == VOCAB_SIZE
    assert output.logits.shape == (LENGTHS.sum(), VOCAB_SIZE)
    assert torch.equal(output.mask, torch.arange(NUM_WORDS) < LENGTHS[..., None])
    assert output.alpha.shape == (3, 3, NUM_WORDS, NUM_LOCATIONS)


def test_state_is_image_by_sequence(decoder):
    memory = decoder.prepare(random_memory())
    state = decoder.init_state(memory, 4)
    for _ in range(2):
        assert all(tensor.shape[:2] == (3, 4) for tensor in state.values())
        logits, state = decoder.step(torch.ones(3, 4, dtype=torch.long), state, memory)
        assert logits.shape == (3, 4, VOCAB_SIZE)


def test_step_equals_forward(decoder):
    memory, tokens = decoder.prepare(random_memory()), random_tokens()
    output = decoder(memory, tokens, LENGTHS)
    expected = spread(output, output.logits)
    state = decoder.init_state(memory, 3)
    for step in range(NUM_WORDS):
        logits, state = decoder.step(tokens[..., step], state, memory)
        real = step < LENGTHS
        torch.testing.assert_close(logits[real], expected[:, :, step][real])


def test_steps_leave_the_state_before_as_it_was(decoder):
    """A search keeps states and goes on from them twice."""
    memory, tokens = decoder.prepare(random_memory()), random_tokens()
    _, state = decoder.step(tokens[..., 0], decoder.init_state(memory, 3), memory)
    first, _ = decoder.step(tokens[..., 1], state, memory)
    decoder.step(tokens[..., 2], state, memory)
    again, _ = decoder.step(tokens[..., 1], state, memory)
    assert torch.equal(first, again)


def test_reordered_sequences_go_on_as_they_were(decoder):
    memory, tokens = decoder.prepare(random_memory()), random_tokens()
    _, state = decoder.step(tokens[..., 0], decoder.init_state(memory, 3), memory)
    logits, _ = decoder.step(tokens[..., 1], state, memory)
    order = [2, 0, 0]
    reordered, _ = decoder.step(tokens[:, order, 1], {name: t[:, order] for name, t in state.items()}, memory)
    torch.testing.assert_close(reordered, logits[:, order])


def test_attention_is_whole_on_real_words_and_nought_elsewhere(decoder):
    memory = decoder.prepare(random_memory())
    output = decoder(memory, random_tokens(), LENGTHS)
    torch.testing.assert_close(output.alpha.sum(-1), output.mask.double())
    assert not output.alpha.masked_select(~memory.mask[:, None, None]).any()


@pytest.mark.parametrize(
    ("images", "captions"), [([2, 0, 1], [0, 1, 2]), ([0, 1, 2], [2, 1, 0]), ([1, 2, 0], [1, 0, 2])]
)
def test_any_order_gives_the_same(decoder, images, captions):
    memory, tokens = random_memory(), random_tokens()
    output = decoder(decoder.prepare(memory), tokens, LENGTHS)
    shuffled = Memory(memory.features[images], memory.mask[images])
    other = decoder(decoder.prepare(shuffled), tokens[images][:, captions], LENGTHS[images][:, captions])
    torch.testing.assert_close(spread(other, other.logits), spread(output, output.logits)[images][:, captions])
    torch.testing.assert_close(other.alpha, output.alpha[images][:, captions])


def test_what_stands_after_the_end_is_not_read(decoder):
    memory, tokens = decoder.prepare(random_memory()), random_tokens()
    output = decoder(memory, tokens, LENGTHS)
    read = torch.arange(NUM_WORDS + 1) < LENGTHS[..., None]
    other = decoder(memory, torch.where(read, tokens, 0), LENGTHS)
    assert torch.equal(output.logits, other.logits)


def test_five_captions_are_five_times_one(decoder):
    memory, tokens = decoder.prepare(random_memory()), random_tokens(3, 5)
    lengths = torch.tensor([[6, 5, 4, 3, 2], [1, 1, 6, 0, 2], [0, 0, 3, 0, 0]])
    together = decoder(memory, tokens, lengths)
    for sequence in range(5):
        alone = decoder(memory, tokens[:, [sequence]], lengths[:, [sequence]])
        torch.testing.assert_close(spread(alone, alone.logits)[:, 0], spread(together, together.logits)[:, sequence])
        torch.testing.assert_close(alone.alpha[:, 0], together.alpha[:, sequence])


def test_images_are_captioned_one_by_one_the_same(decoder):
    memory, tokens = random_memory(), random_tokens()
    together = decoder(decoder.prepare(memory), tokens, LENGTHS)
    rows = spread(together, together.logits)
    for image in range(3):
        one = decoder.prepare(Memory(memory.features[[image]], memory.mask[[image]]))
        alone = decoder(one, tokens[[image]], LENGTHS[[image]])
        torch.testing.assert_close(spread(alone, alone.logits)[0], rows[image])


def test_masked_locations_are_as_good_as_absent(decoder):
    memory, tokens = random_memory([5, 5, 5]), random_tokens()
    mask = torch.tensor([True, False, True, False, True]).expand(3, -1)
    masked = decoder(decoder.prepare(replace(memory, mask=mask)), tokens, LENGTHS)
    absent = Memory(memory.features[:, [0, 2, 4]], torch.ones(3, 3, dtype=torch.bool))
    without = decoder(decoder.prepare(absent), tokens, LENGTHS)
    torch.testing.assert_close(masked.logits, without.logits)
    torch.testing.assert_close(masked.alpha[..., [0, 2, 4]], without.alpha)


def test_a_batch_without_captions_gives_nothing(decoder):
    output = decoder(decoder.prepare(random_memory()), random_tokens(), torch.zeros(3, 3, dtype=torch.long))
    assert output.logits.shape == (0, VOCAB_SIZE)
    assert not output.mask.any()
    assert not output.alpha.any()


def test_gradients_reach_everything(decoder):
    memory = random_memory()
    features = memory.features.requires_grad_()
    output = decoder(decoder.prepare(memory), random_tokens(), LENGTHS)
    output.logits.log_softmax(-1)[:, 0].sum().backward()
    for name, parameter in decoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name
    assert features.grad[memory.mask].any(dim=-1).all()
    assert not features.grad[~memory.mask].any()


def test_dropout_in_training_only(decoder):
    memory, tokens = random_memory(), random_tokens()

    def logits():
        return decoder(decoder.prepare(memory), tokens, LENGTHS).logits

    assert torch.equal(logits(), logits())
    decoder.train()
    assert not torch.equal(logits(), logits())


def test_mixed_precision_agrees(decoder):
    decoder, tokens = decoder.float(), random_tokens()
    memory = random_memory(dtype=torch.float32)
    exact = decoder(decoder.prepare(memory), tokens, LENGTHS)
    with torch.autocast("cpu", torch.bfloat16):
        prepared = decoder.prepare(memory)
        rough = decoder(prepared, tokens, LENGTHS)
        stepped, _ = decoder.step(tokens[..., 0], decoder.init_state(prepared, 3), prepared)
    torch.testing.assert_close(rough.logits.float(), exact.logits, atol=0.1, rtol=0.05)
    torch.testing.assert_close(stepped[LENGTHS > 0].float(), spread(rough, rough.logits)[:, :, 0][LENGTHS > 0].float())
    torch.testing.assert_close(rough.alpha.sum(-1), rough.mask.float(), atol=1e-5, rtol=0)
    rough.logits.float().sum().backward()


# --------------------------------------------------------------------------- Show, Attend and Tell as it is written


@pytest.fixture(params=OPTIONS[ShowAttendTell])
def teller(request):
    """Show, Attend and Tell in every configuration."""
    return build(ShowAttendTell, OPTIONS[ShowAttendTell][request.param])


def lstm_cell(decoder, seen_dim):
    """torch's own LSTM, which reads [E y; z], with the decoder's weights."""
    cell = nn.LSTMCell(decoder.embed_dim + seen_dim, decoder.hidden_dim).double()
    from_context, from_hidden = decoder.recurrent_gates.weight.split([seen_dim, decoder.hidden_dim], dim=1)
    cell.weight_ih.data = torch.cat([decoder.word_gates.weight, from_context], dim=1)
    cell.weight_hh.data = from_hidden
    cell.bias_ih.data = decoder.word_gates.bias
    cell.bias_hh.data.zero_()
    return cell


def tell(decoder, annotations, words):
    """One caption of one image by the equations: (T, V) logits and (T, L) weights.

    Args:
        decoder: whose weights and choices to take.
        annotations: (L, D), real ones alone.
        words: those to read, the begin word first.
    """
    if decoder.normalise_features:
        centred = annotations - annotations.mean(1, keepdim=True)
        annotations = centred / (centred.square().mean(1, keepdim=True) + decoder.norm.eps).sqrt()
        annotations = annotations * decoder.norm.weight + decoder.norm.bias
    if decoder.project_dim:
        annotations = (annotations @ decoder.projection.weight.T + decoder.projection.bias).clamp(min=0)
    lstm, scorer = lstm_cell(decoder, annotations.shape[1]), decoder.attention
    mean = annotations.mean(0)
    hidden = (decoder.init_hidden.weight @ mean + decoder.init_hidden.bias).tanh()
    cell = (decoder.init_cell.weight @ mean + decoder.init_cell.bias).tanh()
    logits, alphas = [], []
    for word in words:
        compared = annotations @ scorer.key.weight.T + scorer.key.bias + scorer.query.weight @ hidden  # (L, A)
        energies = (compared.tanh() @ scorer.energy.weight[0]).exp()
        alpha = energies / energies.sum()
        context = sum(weight * vector for weight, vector in zip(alpha, annotations, strict=True))
        gated = context
        if decoder.gate != "none":
            gated = context / (1 + (-(decoder.beta.weight @ hidden + decoder.beta.bias)).exp())
        embedded = decoder.embedding.weight[word]
        hidden, cell = lstm(torch.cat([embedded, gated])[None], (hidden[None], cell[None]))
        hidden, cell = hidden[0], cell[0]
        summary = hidden
        if decoder.deep_output:
            seen = gated if decoder.gated_output else context
            summary = embedded + decoder.output_hidden.weight @ hidden + decoder.output_hidden.bias
            summary = summary + decoder.output_context.weight @ seen
            summary = summary.tanh() if decoder.output_tanh else summary
        matrix = decoder.embedding.weight if decoder.tie_embeddings else decoder.output.weight
        logits.append(matrix @ summary + decoder.output.bias)
        alphas.append(alpha)
    return torch.stack(logits), torch.stack(alphas)


@torch.no_grad()
def test_it_is_the_equations(teller):
    for parameter in teller.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))  # no bias is 0 by chance
    memory, tokens = random_memory(), random_tokens()
    output = teller(teller.prepare(memory), tokens, LENGTHS)
    found = spread(output, output.logits)
    for image, sequence in (LENGTHS > 0).nonzero().tolist():
        length, real = int(LENGTHS[image, sequence]), memory.mask[image]
        words = tokens[image, sequence, :length].tolist()
        logits, alphas = tell(teller, memory.features[image, real], words)
        torch.testing.assert_close(found[image, sequence, :length], logits)
        torch.testing.assert_close(output.alpha[image, sequence, :length, real], alphas)


def test_nothing_of_the_image_is_copied_per_sequence(teller, monkeypatch):
    memory = teller.prepare(random_memory())
    assert memory.keys.shape == (3, NUM_LOCATIONS, 7)
    storages = {memory.features.untyped_storage().data_ptr(), memory.keys.untyped_storage().data_ptr()}
    looked = []

    def spy(self, query, memory):
        looked.append({memory.features.untyped_storage().data_ptr(), memory.keys.untyped_storage().data_ptr()})
        return attend(self, query, memory)

    attend = AdditiveAttention.forward
    monkeypatch.setattr(AdditiveAttention, "forward", spy)
    monkeypatch.setattr(AdditiveAttention, "project", None)  # once, in prepare
    monkeypatch.setattr(teller, "prepare", None)
    teller(memory, random_tokens(), LENGTHS)
    teller.step(torch.zeros(3, 5, dtype=torch.long), teller.init_state(memory, 5), memory)
    assert looked == [storages] * (NUM_WORDS + 1)


def test_captions_that_have_ended_cost_nothing(teller, monkeypatch):
    rectangles = []

    def spy(self, query, memory):
        rectangles.append((len(memory.features), *query.shape[:2]))
        return attend(self, query, memory)

    attend = AdditiveAttention.forward
    monkeypatch.setattr(AdditiveAttention, "forward", spy)
    teller(teller.prepare(random_memory()), random_tokens(), LENGTHS)
    assert rectangles == [(3, 3, 3), (3, 3, 3), (2, 2, 2), (2, 2, 2), (1, 1, 1), (1, 1, 1)]


def test_the_vocabulary_is_projected_once(teller, monkeypatch):
    calls = []
    predict = ShowAttendTell.predict
    monkeypatch.setattr(
        ShowAttendTell, "predict", lambda self, readout: calls.append(len(readout.word)) or predict(self, readout)
    )
    teller(teller.prepare(random_memory()), random_tokens(), LENGTHS)
    assert calls == [int(LENGTHS.sum())]


def test_arguments_are_kept_under_their_names(teller):
    for name in inspect.signature(ShowAttendTell).parameters:
        assert hasattr(teller, name)


def test_tied_embeddings_are_one_matrix():
    tied, loose = build(ShowAttendTell, {"tie_embeddings": True}), build(ShowAttendTell, {})
    assert tied.output.weight is tied.embedding.weight
    count = [sum(parameter.numel() for parameter in decoder.parameters()) for decoder in (tied, loose)]
    assert count[1] - count[0] == VOCAB_SIZE * small["embed_dim"]


def test_a_gate_that_is_open_is_none():
    scalar, none = build(ShowAttendTell, {"gate": "scalar"}), build(ShowAttendTell, {"gate": "none"})
    none.load_state_dict({name: t for name, t in scalar.state_dict().items() if not name.startswith("beta")})
    nn.init.zeros_(scalar.beta.weight)
    outputs = []
    for bias in (40.0, -40.0):  # open, shut
        nn.init.constant_(scalar.beta.bias, bias)
        outputs.append(scalar(scalar.prepare(random_memory()), random_tokens(), LENGTHS).logits)
    free = none(none.prepare(random_memory()), random_tokens(), LENGTHS).logits
    torch.testing.assert_close(outputs[0], free)
    assert not torch.allclose(outputs[1], free, atol=1e-3)


def test_an_unknown_gate_is_refused_with_the_choices():
    with pytest.raises(ValueError, match="'sigmoid' is not one of none, scalar, vector"):
        ShowAttendTell(FEATURE_DIM, VOCAB_SIZE, gate="sigmoid")


def test_tied_embeddings_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="need embed_dim 9 = hidden_dim 8"):
        ShowAttendTell(FEATURE_DIM, VOCAB_SIZE, tie_embeddings=True, deep_output=False, embed_dim=9, hidden_dim=8)
