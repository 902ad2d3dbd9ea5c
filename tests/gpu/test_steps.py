"""Training steps and searches on a GPU: what a CPU computes, compiled, as a CUDA graph, and without waiting."""

from __future__ import annotations

import functools
from dataclasses import replace

import pytest
import torch
from decoder_cases import OPTIONS, SHRINKING, all_of, build, random_memory, random_tokens

from captioner.data.batches.examples import HostBatch, move
from captioner.decoding import BeamSearch, DiverseBeamSearch, GreedySearch, NoRepeatedNgrams, Rules, Sampling
from captioner.losses import CaptionLoss
from captioner.models import (
    AdditiveAttention,
    CaptionModel,
    Decoder,
    GridEncoder,
    RecurrentDecoder,
    ShowAttendTell,
)
from captioner.types import Memory

LENGTHS = [  # of batches; the third is longer, the fourth has a missing caption, the last two come again
    torch.tensor([[9, 7, 4], [8, 8, 1], [5, 2, 2], [3, 3, 3]]),
    torch.tensor([[7, 6, 5], [7, 5, 5], [6, 6, 6], [6, 1, 1]]),
    torch.tensor([[14, 9, 2], [9, 9, 9], [8, 4, 4], [1, 1, 1]]),
    torch.tensor([[8, 7, 0], [7, 6, 5], [5, 4, 0], [2, 1, 0]]),
]
LENGTHS += LENGTHS[:2]
VOCAB_SIZE = 300


def make(device: torch.device, dtype: torch.dtype = torch.float32) -> ShowAttendTell:
    torch.manual_seed(0)
    attention = functools.partial(AdditiveAttention, attention_dim=72)
    decoder = ShowAttendTell(96, VOCAB_SIZE, attention, embed_dim=64, hidden_dim=80, dropout=0.0)
    return decoder.to(device, dtype).train()


def batches(device: torch.device, dtype: torch.dtype = torch.float32):
    """Memories, tokens and lengths."""
    generator = torch.Generator().manual_seed(1)
    for lengths in LENGTHS:
        features = torch.randn(4, 49, 96, generator=generator, dtype=torch.float64).relu()
        grid = features.transpose(1, 2).unflatten(2, (7, 7)).to(device, dtype)
        tokens = torch.randint(4, VOCAB_SIZE, (4, 3, int(lengths.max()) + 1), generator=generator)
        yield Memory.from_grid(grid), tokens.to(device), lengths


def train(decoder: RecurrentDecoder, bf16: bool = False) -> list[torch.Tensor]:
    """Losses and gradients over all batches, by which weights move."""
    device = next(decoder.parameters()).device
    optimizer = torch.optim.SGD(decoder.parameters(), lr=0.05)
    found = []
    for memory, tokens, lengths in batches(device, next(decoder.parameters()).dtype):
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            output = decoder(decoder.prepare(memory), tokens, lengths)
            mean = CaptionLoss()(output, tokens[..., 1:]).mean
        optimizer.zero_grad()
        mean.backward()
        optimizer.step()
        found += [mean.detach(), *(weight.grad.clone() for weight in decoder.parameters())]
    return [tensor.double().cpu() for tensor in found]


def assert_near(found: list[torch.Tensor], expected: list[torch.Tensor], tolerance: float) -> None:
    for one, other in zip(found, expected, strict=True):
        assert float((one - other).norm()) <= tolerance * float(other.norm()) + 1e-6


@pytest.fixture(scope="module")
def expected() -> list[torch.Tensor]:
    """What a CPU finds in double precision."""
    return train(make(torch.device("cpu"), torch.float64))


@pytest.mark.parametrize(("bf16", "tolerance"), [(False, 1e-3), (True, 0.1)], ids=["fp32", "bf16"])
@pytest.mark.parametrize("graphs", [False, True], ids=["launched", "graphs"])
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_steps_learn_as_on_a_cpu(device, expected, compiled, graphs, bf16, tolerance):
    if device.type == "cpu" and (compiled or graphs):
        pytest.skip("needs a GPU")
    decoder = make(device)
    if compiled:
        decoder.compile(dynamic=True)
    if graphs:
        decoder.use_cuda_graphs()
    assert_near(train(decoder, bf16), expected, tolerance)
    if decoder.recorder is not None:
        assert not decoder.recorder.has_failed
        assert decoder.recorder.turn == 3  # of six batches two are the first of their shape, and one comes once
        assert len(decoder.recorder.recordings) == 2


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_a_graph_is_the_loop_to_the_last_bit(cuda, compiled, monkeypatch):
    runs = []
    for records in (False, True):
        decoder = make(cuda)
        if compiled:
            decoder.compile(dynamic=True)
        decoder.use_cuda_graphs()
        decoder.recorder.has_failed = not records  # the same loop, launched
        runs.append(train(decoder, bf16=True))
    assert all(map(torch.equal, *runs))


@pytest.mark.parametrize("cls", all_of(RecurrentDecoder), ids=lambda cls: cls.__name__)
def test_every_decoder_s_loop_can_be_recorded(cuda, cls):
    for options in OPTIONS.get(cls, {"default": {}}).values():
        found = []
        for graphs in (False, True):
            decoder = build(cls, options).to(cuda, torch.float32).train()
            decoder.drop.p = 0.0
            if graphs:
                decoder.use_cuda_graphs()
            gradients = []
            for lengths in SHRINKING * 2:
                torch.manual_seed(0)
                memory = random_memory().map(lambda t: t.float() if t.is_floating_point() else t).to(cuda)
                tokens = random_tokens()[..., : int(lengths.max()) + 1].to(cuda)
                output = decoder(decoder.prepare(memory), tokens, lengths)
                loss = output.logits.square().sum() + sum(extra.square().sum() for extra in output.extras.values())
                weights = [weight for weight in decoder.parameters() if weight.requires_grad]
                gradients += torch.autograd.grad(loss, weights, allow_unused=True)
            found.append([gradient.double().cpu() for gradient in gradients if gradient is not None])
            assert decoder.recorder is None or (not decoder.recorder.has_failed and decoder.recorder.turn > 0)
        if "hard" not in str(options):  # which draws other numbers for rows of no words
            assert_near(found[1], found[0], 1e-3)


@pytest.mark.parametrize(
    ("how", "fine_tuned"),
    [("launched", False), ("launched", True), ("graphs", False), ("compiled", False), ("compiled graphs", True)],
)
def test_a_training_step_does_not_wait(device, no_waiting, how, fine_tuned):
    """From a pinned batch to moved weights, in bf16, once all is warm."""
    encoder = GridEncoder(
        "timm/test_efficientnet", "none", output_stride=16, trainable_from="blocks.1" if fine_tuned else None
    )
    attention = functools.partial(AdditiveAttention, attention_dim=64)
    model = CaptionModel(encoder, ShowAttendTell(encoder.feature_dim, 100, attention, 64, 64)).to(device).train()
    if device.type == "cpu" and how != "launched":
        pytest.skip("needs a GPU")
    if "compiled" in how:
        model.decoder.compile(dynamic=True)
    if "graphs" in how:
        model.decoder.use_cuda_graphs()
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer, loss = torch.optim.AdamW(trained), CaptionLoss(label_smoothing=0.1)
    pixels = torch.randint(256, (4, 3, 64, 64), dtype=torch.uint8)
    batch = HostBatch(pixels, torch.randint(4, 100, (4, 3, 10)), LENGTHS[0], [])
    batch = batch.pin_memory() if device.type == "cuda" else batch

    def step() -> None:
        there = move(batch, device)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            output = model.decoder(model.encode(there.source), there.tokens, there.lengths)
            sums = loss(output, there.tokens[..., 1:])
        optimizer.zero_grad()
        sums.share_of(sums.from_vector(sums.vector())).backward()
        torch.nn.utils.clip_grad_norm_(trained, 5.0)
        optimizer.step()

    for _ in range(3):
        step()
    with no_waiting:
        for _ in range(2):
            step()
    if model.decoder.recorder is not None:
        assert not model.decoder.recorder.has_failed
        assert model.decoder.recorder.turn >= 3


@pytest.mark.parametrize(
    "search",
    [GreedySearch(), BeamSearch(4), DiverseBeamSearch(4, 2), Sampling(3, top_k=5, top_p=0.9)],
    ids=lambda search: type(search).__name__,
)
def test_a_search_does_not_wait_and_finds_what_a_cpu_finds(device, no_waiting, search):
    rules = Rules(bos_id=1, eos_id=2, never=(0, 1, 3), max_length=12, constraints=(NoRepeatedNgrams(2),))
    found = []
    for place in (torch.device("cpu"), device):
        decoder = make(place).eval()
        with torch.inference_mode():
            for weight in decoder.parameters():
                weight.mul_(2)
            decoder.output.bias[2] += 3
            memory = decoder.prepare(next(batches(place))[0])
            search.find(*decoder.begin(memory), rules)
            if place.type == "cuda":
                with no_waiting:
                    result = search.find(*decoder.begin(memory), rules)
            else:
                result = search.find(*decoder.begin(memory), rules)
        found.append(result)
    if not isinstance(search, Sampling):  # random numbers are the device's
        words = [[hypothesis.tokens for hypothesis in of_image] for of_image in found[0].hypotheses()]
        assert [[hypothesis.tokens for hypothesis in of_image] for of_image in found[1].hypotheses()] == words
    assert found[1].finished.any()


@pytest.mark.parametrize("cls", all_of(Decoder), ids=lambda cls: cls.__name__)
def test_decoders_tell_what_they_tell_on_a_cpu(device, cls):
    for options in OPTIONS.get(cls, {"default": {}}).values():
        decoder = build(cls, options)
        memory, tokens, lengths = random_memory(), random_tokens(), SHRINKING[0]
        expected = decoder(decoder.prepare(memory), tokens, lengths)
        decoder = decoder.to(device, torch.float32)
        memory = replace(memory, features=memory.features.float()).to(device)
        output = decoder(decoder.prepare(memory), tokens.to(device), lengths)
        torch.testing.assert_close(output.logits.double().cpu(), expected.logits, atol=1e-3, rtol=1e-3)
        if expected.alpha is not None:
            torch.testing.assert_close(output.alpha.double().cpu(), expected.alpha, atol=1e-4, rtol=1e-3)
