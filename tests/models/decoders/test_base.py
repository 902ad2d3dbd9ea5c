"""The contract of every decoder, over its configurations, scorers and memories. A new one is tested by existing."""

from __future__ import annotations

import functools
import inspect
from dataclasses import replace

import pytest
import torch
from decoder_cases import (
    ATTENTIVE,
    LENGTHS,
    NUM_LOCATIONS,
    NUM_WORDS,
    OPTIONS,
    SHRINKING,
    TINY,
    VOCAB_SIZE,
    WITHOUT_SENTINEL,
    accepted,
    additive,
    all_of,
    assert_extras,
    assert_gradients_reach,
    assert_looks_are_whole,
    assert_same_looks,
    assert_steps_are_forward,
    build,
    looks_of,
    random_memory,
    random_tokens,
    regions,
    spread,
    two_heads,
    words,
)
from torch._dynamo.testing import CompileCounter

from captioner.decoding import Rules, Sampling, greedy_search
from captioner.models import (
    AdaptiveDecoder,
    AdditiveAttention,
    Attention,
    Decoder,
    RecurrentDecoder,
    ShowAndTell,
)
from captioner.models.attention import HardAttention, LocationAttention, MultiHeadAttention
from captioner.models.decoders import LSTMDecoder
from captioner.types import Kind, Memory, Segment


@pytest.fixture(
    params=[
        pytest.param((cls, options), id=f"{cls.__name__}, {name}")
        for cls in all_of(Decoder)
        for name, options in OPTIONS.get(cls, {"default": {}}).items()
    ]
)
def decoder(request):
    """Every decoder in several configurations."""
    return build(*request.param)


@pytest.fixture(params=all_of(Decoder), ids=lambda cls: cls.__name__)
def plain_decoder(request):
    """Every decoder once."""
    return build(request.param, {})


def test_the_decoders_are_found():
    assert set(OPTIONS) <= set(all_of(Decoder))
    assert {AdditiveAttention, HardAttention, MultiHeadAttention} < set(all_of(Attention))


def test_shapes(decoder):
    output = decoder(decoder.prepare(random_memory()), random_tokens(), LENGTHS)
    assert decoder.vocab_size == VOCAB_SIZE
    assert output.logits.shape == (LENGTHS.sum(), VOCAB_SIZE)
    assert torch.equal(output.mask, torch.arange(NUM_WORDS) < LENGTHS[..., None])
    assert torch.equal(output.locations, random_memory().mask)
    if decoder.attention is None:
        assert output.alpha is None
        assert not output.extras
    else:
        assert output.alpha.shape == (3, 3, NUM_WORDS, NUM_LOCATIONS)
        assert_looks_are_whole(decoder, output)


def test_state_is_image_by_sequence_and_counts_words(decoder):
    memory = decoder.prepare(random_memory())
    state = decoder.init_state(memory, 4)
    for number in range(3):
        assert all(tensor.shape[:2] == (3, 4) for tensor in state.values())
        assert torch.equal(state["step"], torch.full((3, 4), number))
        logits, state = decoder.step(torch.ones(3, 4, dtype=torch.long), state, memory)
        assert logits.shape == (3, 4, VOCAB_SIZE)


def test_step_equals_forward(decoder):
    memory, tokens = decoder.prepare(random_memory()), random_tokens()
    assert_steps_are_forward(decoder, memory, tokens, LENGTHS)
    assert_steps_are_forward(decoder, memory, tokens[..., :2], LENGTHS.clamp(max=1))  # captions of one word


def test_words_that_are_fed_one_by_one_say_the_same(decoder):
    """The given words are read all at once where nothing else is to be read."""
    memory, tokens = decoder.prepare(random_memory()), random_tokens()
    expected = decoder(memory, tokens, LENGTHS)
    found = decoder(memory, tokens, LENGTHS, feed=lambda given, logits: given)
    torch.testing.assert_close(found.logits, expected.logits)
    assert_same_looks(looks_of(found), looks_of(expected))


def test_a_decoder_that_is_fed_its_own_words_says_what_it_would(decoder):
    memory = decoder.prepare(random_memory())
    found = greedy_search(*decoder.begin(memory), Rules(1, 2, (), min_length=0, max_length=NUM_WORDS))
    tokens, lengths = found.given(1, 2, 0)
    blank = torch.where(torch.arange(tokens.shape[2]) == 0, tokens, 5)  # nothing but the begin word is read of it
    output = decoder(memory, blank, lengths, feed=lambda given, logits: logits.argmax(-1))
    said = output.logits.log_softmax(-1).gather(1, output.of_words(tokens[..., 1:])[:, None])
    assert torch.equal(output.logits.argmax(-1), output.of_words(tokens[..., 1:]))
    torch.testing.assert_close(said.sum().float(), found.log_probs.sum())


def test_what_is_sampled_is_as_probable_as_what_is_given(decoder):
    """One pass over sampled captions gives their log-probabilities, with gradients."""
    memory = decoder.prepare(random_memory())
    with torch.no_grad():
        found = Sampling(4, seed=None).find(*decoder.begin(memory), Rules(1, 2, (), min_length=0, max_length=5), 4)
    tokens, lengths = found.given(1, 2, 0)
    output = decoder(memory, tokens, lengths)
    of_words = output.logits.log_softmax(-1).gather(1, output.of_words(tokens[..., 1:])[:, None])[:, 0]
    log_probs = of_words.new_zeros(output.mask.shape).masked_scatter(output.mask, of_words).sum(-1)
    there = lengths > 0
    torch.testing.assert_close(log_probs[there].float(), found.log_probs[there])
    log_probs.sum().backward()
    assert next(decoder.parameters()).grad is not None


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


@pytest.mark.parametrize(("images", "captions"), [([2, 0, 1], [2, 1, 0]), ([1, 2, 0], [1, 0, 2])])
def test_any_order_gives_the_same(decoder, images, captions):
    memory, tokens = random_memory(), random_tokens()
    output = decoder(decoder.prepare(memory), tokens, LENGTHS)
    shuffled = memory.map(lambda tensor: tensor[images])
    other = decoder(decoder.prepare(shuffled), tokens[images][:, captions], LENGTHS[images][:, captions])
    torch.testing.assert_close(spread(other, other.logits), spread(output, output.logits)[images][:, captions])
    assert_same_looks(looks_of(other), looks_of(output), lambda tensor: tensor[images][:, captions])


def test_what_stands_after_the_end_is_not_read(decoder):
    memory, tokens = decoder.prepare(random_memory()), random_tokens()
    output = decoder(memory, tokens, LENGTHS)
    read = torch.arange(NUM_WORDS + 1) < LENGTHS[..., None]
    other = decoder(memory, torch.where(read, tokens, 0), LENGTHS)
    assert torch.equal(output.logits, other.logits)


def test_five_captions_are_five_times_one(decoder):
    memory, tokens = decoder.prepare(random_memory()), random_tokens(5)
    lengths = torch.tensor([[6, 5, 4, 3, 2], [1, 1, 6, 0, 2], [0, 0, 3, 0, 0]])
    together = decoder(memory, tokens, lengths)
    for sequence in range(5):
        alone = decoder(memory, tokens[:, [sequence]], lengths[:, [sequence]])
        torch.testing.assert_close(spread(alone, alone.logits)[:, 0], spread(together, together.logits)[:, sequence])
        assert_same_looks(looks_of(alone), looks_of(together), lambda tensor, at=sequence: tensor[:, [at]])


def test_images_are_captioned_one_by_one_the_same(decoder):
    memory, tokens = random_memory(), random_tokens()
    together = decoder(decoder.prepare(memory), tokens, LENGTHS)
    rows = spread(together, together.logits)
    for image in range(3):
        one = decoder.prepare(memory.map(lambda tensor, at=image: tensor[[at]]))
        alone = decoder(one, tokens[[image]], LENGTHS[[image]])
        torch.testing.assert_close(spread(alone, alone.logits)[0], rows[image])


def test_masked_locations_are_as_good_as_absent(decoder):
    memory, tokens = random_memory([5, 5, 5]), random_tokens()
    mask = torch.tensor([True, False, True, False, True]).expand(3, -1)
    masked = decoder(decoder.prepare(replace(memory, mask=mask)), tokens, LENGTHS)
    absent = Memory(memory.features[:, [0, 2, 4]], mask[:, [0, 2, 4]], (Segment(Kind.GRID, 3, grid=(1, 3)),))
    without = decoder(decoder.prepare(absent), tokens, LENGTHS)
    torch.testing.assert_close(masked.logits, without.logits)
    for name in looks_of(masked).keys() & {"alpha", "heads"}:
        torch.testing.assert_close(looks_of(masked)[name][..., [0, 2, 4]], looks_of(without)[name])


def test_a_batch_without_captions_gives_nothing(decoder):
    output = decoder(decoder.prepare(random_memory()), random_tokens(), torch.zeros(3, 3, dtype=torch.long))
    assert output.logits.shape == (0, VOCAB_SIZE)
    assert not output.mask.any()
    assert not any(look.any() for look in looks_of(output).values())


def test_gradients_reach_everything(decoder):
    memory = random_memory()
    features = memory.features.requires_grad_()
    assert_gradients_reach(decoder, decoder(decoder.prepare(memory), random_tokens(), LENGTHS))
    assert features.grad[memory.mask].any(dim=-1).all()
    assert not features.grad[~memory.mask].any()


def test_chance_in_training_only(decoder):
    memory, tokens = random_memory(), random_tokens()

    def logits():
        return decoder(decoder.prepare(memory), tokens, LENGTHS).logits

    assert torch.equal(logits(), logits())
    decoder.train()
    assert not torch.equal(logits(), logits())


def test_mixed_precision_agrees(decoder):
    decoder, tokens = decoder.float(), random_tokens()
    memory = random_memory()
    memory = replace(memory, features=memory.features.float())
    exact = decoder(decoder.prepare(memory), tokens, LENGTHS)
    with torch.autocast("cpu", torch.bfloat16):
        prepared = decoder.prepare(memory)
        rough = decoder(prepared, tokens, LENGTHS)
        stepped, _ = decoder.step(tokens[..., 0], decoder.init_state(prepared, 3), prepared)
    torch.testing.assert_close(rough.logits.float(), exact.logits, atol=0.1, rtol=0.05)
    first = spread(rough, rough.logits)[:, :, 0][LENGTHS > 0]
    torch.testing.assert_close(stepped[LENGTHS > 0].float(), first.float(), atol=0.02, rtol=0.02)  # an order of adding
    if rough.alpha is not None:
        assert rough.alpha.dtype == torch.float32
        whole = rough.alpha.sum(-1) + rough.extras.get("sentinel", 0)
        torch.testing.assert_close(whole, rough.mask.float(), atol=1e-5, rtol=0)
    rough.logits.float().sum().backward()


@torch.no_grad()
def test_it_changes_its_number_format(decoder):
    memory, tokens = random_memory(), random_tokens()
    exact = decoder(decoder.prepare(memory), tokens, LENGTHS).logits
    for dtype in (torch.float32, torch.bfloat16):
        decoder = decoder.to(dtype)
        prepared = decoder.prepare(replace(memory, features=memory.features.to(dtype)))
        rough = decoder(prepared, tokens, LENGTHS).logits
        stepped, _ = decoder.step(tokens[..., 0], decoder.init_state(prepared, 3), prepared)
        assert rough.dtype == stepped.dtype == dtype
        torch.testing.assert_close(rough.double(), exact, atol=0.2 if dtype == torch.bfloat16 else 1e-4, rtol=0.1)


def test_nothing_of_the_image_is_copied_per_sequence(decoder, monkeypatch):
    memory = decoder.prepare(random_memory())
    kept = {
        tensor.untyped_storage().data_ptr()
        for tensor in (memory.features, memory.keys, memory.values)
        if tensor is not None
    }
    looked = []

    def spy(self, query, memory, *others):
        assert len(memory.features) == len(query)
        looked.extend(
            t.untyped_storage().data_ptr() for t in (memory.features, memory.keys, memory.values) if t is not None
        )
        return attend(self, query, memory, *others)

    attend = Attention.forward
    monkeypatch.setattr(Attention, "forward", spy)
    monkeypatch.setattr(type(decoder), "prepare", None)
    for attention in (Attention, MultiHeadAttention, HardAttention):
        monkeypatch.setattr(attention, "prepare", None)  # once, before
    decoder(memory, random_tokens(), LENGTHS)
    decoder.step(torch.zeros(3, 5, dtype=torch.long), decoder.init_state(memory, 5), memory)
    assert set(looked) <= kept
    assert bool(looked) == (decoder.attention is not None)


def test_a_memory_that_was_not_prepared_is_refused(plain_decoder):
    memory, tokens = random_memory(), random_tokens()
    with pytest.raises(ValueError, match=r"call the decoder's prepare\(memory\) first"):
        plain_decoder(memory, tokens, LENGTHS)


@pytest.mark.parametrize("cls", all_of(RecurrentDecoder), ids=lambda cls: cls.__name__)
def test_captions_that_have_ended_cost_nothing(cls, monkeypatch):
    decoder = build(cls, {})
    rectangles = []

    def spy(self, drive, state, memory):
        assert all(tensor.shape[:2] == drive.shape[:2] for tensor in state.values())
        rectangles.append((len(memory.features), *drive.shape[:2]))
        return advance(self, drive, state, memory)

    advance = cls.advance
    monkeypatch.setattr(cls, "advance", spy)
    decoder(decoder.prepare(random_memory()), random_tokens(), LENGTHS)
    assert rectangles == [(3, 3, 3), (3, 3, 3), (2, 2, 2), (2, 2, 2), (1, 1, 1), (1, 1, 1)]


def test_the_vocabulary_is_projected_once_and_for_real_words_alone(plain_decoder):
    calls = []
    plain_decoder.output.register_forward_hook(lambda layer, given, logits: calls.append(logits.shape))
    plain_decoder(plain_decoder.prepare(random_memory()), random_tokens(), LENGTHS)
    assert calls == [(LENGTHS.sum(), VOCAB_SIZE)]


def test_arguments_are_kept_under_their_names(decoder):
    for name in inspect.signature(type(decoder)).parameters:
        value = getattr(decoder, name)
        assert isinstance(value, bool | int | float | str | None | Attention), name


@pytest.mark.parametrize("cls", all_of(LSTMDecoder), ids=lambda cls: cls.__name__)
def test_tied_embeddings_that_do_not_fit_are_refused(cls):
    options = {"tie_embeddings": True, "embed_dim": 9} | accepted(cls, {"deep_output": False})
    with pytest.raises(ValueError, match="of embed_dim 9, here they have 8: set hidden_dim"):
        build(cls, options)


@pytest.mark.parametrize("scorer", all_of(Attention), ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("cls", ATTENTIVE, ids=lambda cls: cls.__name__)
def test_every_decoder_with_every_scorer(cls, scorer):
    decoder = build(cls, {"attention": functools.partial(scorer, **accepted(scorer, TINY))}, feature_dim=8)
    memory, tokens = decoder.prepare(random_memory(feature_dim=8)), random_tokens()
    if cls is AdaptiveDecoder and scorer in WITHOUT_SENTINEL:
        with pytest.raises(ValueError, match="sentinel"):
            decoder(memory, tokens, LENGTHS)
        return
    assert_steps_are_forward(decoder, memory, tokens, LENGTHS)
    output = decoder(memory, tokens, LENGTHS)
    assert_looks_are_whole(decoder, output)
    assert_extras(decoder, output)
    assert_gradients_reach(decoder, output)


@pytest.mark.parametrize(
    "make",
    [regions, words, lambda: Memory.concatenate([words(), regions(), random_memory()])],
    ids=["regions", "words", "several"],
)
@pytest.mark.parametrize("scorer", [additive, two_heads], ids=["additive", "multi-head"])
@pytest.mark.parametrize("cls", all_of(Decoder), ids=lambda cls: cls.__name__)
def test_every_decoder_over_every_memory(cls, scorer, make):
    decoder = build(cls, accepted(cls, {"attention": scorer}))
    memory = decoder.prepare(make())
    assert memory.kinds == make().kinds
    assert_steps_are_forward(decoder, memory, random_tokens(), LENGTHS)
    output = decoder(memory, random_tokens(), LENGTHS)
    if cls is not ShowAndTell:
        assert_looks_are_whole(decoder, output)
        assert_extras(decoder, output)
    assert_gradients_reach(decoder, output)


@pytest.mark.parametrize("cls", ATTENTIVE, ids=lambda cls: cls.__name__)
def test_a_memory_that_the_scorer_is_not_defined_for_is_refused(cls):
    decoder = build(cls, {"attention": functools.partial(LocationAttention, num_locations=20)})
    with pytest.raises(ValueError, match="LocationAttention is not defined over regions"):
        decoder.prepare(regions())
    with pytest.raises(ValueError, match="LocationAttention is not defined over several memories at once"):
        decoder.prepare(Memory.concatenate([words(), random_memory()]))


def test_a_training_step_waits_for_no_device(decoder):
    """On the meta device no tensor has a value that could be asked for; the lengths are the host's."""
    memory, tokens = random_memory(), random_tokens()
    decoder = decoder.to("meta").train()
    output = decoder(decoder.prepare(memory.to("meta")), tokens.to("meta"), LENGTHS)
    assert output.logits.shape == (int(LENGTHS.sum()), decoder.vocab_size)
    assert output.of_words(tokens[..., 1:].to("meta")).shape == output.logits.shape[:1]
    output.logits.sum().backward()


@pytest.mark.parametrize("cls", [cls for cls in all_of(Decoder) if issubclass(cls, LSTMDecoder)])
def test_the_cell_is_precise_whatever_products_are(cls):
    decoder = build(cls, {}).float()
    memory = random_memory()
    memory = decoder.prepare(replace(memory, features=memory.features.float()))
    with torch.autocast("cpu", torch.bfloat16):
        state = decoder.init_state(memory, 2)
        dtypes = {name: tensor.dtype for name, tensor in state.items()}
        _, after = decoder.step(torch.ones(3, 2, dtype=torch.long), state, memory)
    cells = {name for name in dtypes if name.endswith("cell")}
    assert cells
    assert all(dtypes[name] == after[name].dtype == torch.float32 for name in cells)


@pytest.mark.parametrize("cls", all_of(RecurrentDecoder), ids=lambda cls: cls.__name__)
def test_a_compiled_decoder_tells_the_same(cls):
    """As on a GPU, where a step is compiled as a whole, and once for all shapes of a training.

    Where the first state has zeros it is compiled for these, which need no gradient, and for what comes after.
    """
    decoder, counter = build(cls, {}), CompileCounter()
    expected = [decoder(decoder.prepare(random_memory()), random_tokens(), lengths).logits for lengths in SHRINKING]
    decoder.compiled_advance = torch.compile(cls.advance, backend=counter, dynamic=True, fullgraph=True)
    memory = decoder.prepare(random_memory())
    for lengths, logits in zip(SHRINKING, expected, strict=True):
        found = decoder(memory, random_tokens(), lengths).logits
        torch.testing.assert_close(found, logits)
    first = [state for state in decoder.init_state(memory, 3).values() if state.is_floating_point()]
    assert counter.frame_count == (1 if all(state.requires_grad for state in first) else 2)
