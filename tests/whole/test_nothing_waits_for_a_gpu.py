"""Training steps and searches run ahead of a GPU; `tests/gpu` has the same on a real one."""

from __future__ import annotations

import pytest
import torch
from no_waiting import NoWaiting

from captioner.data.batches.examples import HostBatch, move
from captioner.decoding import (
    BeamSearch,
    DiverseBeamSearch,
    ForbiddenWords,
    GreedySearch,
    NoBadEndings,
    NoRepeatedNgrams,
    RequiredWords,
    Rules,
    Sampling,
)
from captioner.decoding.common import STEPS_BEHIND
from captioner.losses import CaptionLoss, HardAttentionLoss
from captioner.models import AdditiveAttention, CaptionModel, GridEncoder, ShowAttendTell, TransformerDecoder
from captioner.models.attention import HardAttention, MultiHeadAttention

META = torch.device("meta")
VOCAB_SIZE = 20
RULES = Rules(
    bos_id=1,
    eos_id=2,
    never=(0, 1, 3),
    max_length=6,
    constraints=(NoRepeatedNgrams(2), ForbiddenWords(((5, 6),)), NoBadEndings(((7,),)), RequiredWords(((4,), (8, 9)))),
)


def additive(feature_dim: int, query_dim: int) -> AdditiveAttention:
    return AdditiveAttention(feature_dim, query_dim, 8)


def model(decoder=ShowAttendTell, **options) -> CaptionModel:
    encoder = GridEncoder("timm/test_efficientnet", "none", output_stride=16, trainable_from="blocks.1")
    sizes = {"model_dim": 16, "num_heads": 2} if decoder is TransformerDecoder else {"embed_dim": 16, "hidden_dim": 16}
    return CaptionModel(
        encoder, decoder(encoder.feature_dim, VOCAB_SIZE, **{"attention": additive, **sizes, **options})
    )


def test_what_waits_is_found():
    tensor, index = torch.ones(3, device=META), torch.tensor([0, 1])
    for wait in (
        lambda: tensor.nonzero(),
        lambda: tensor[index],
        lambda: index.to(META),
        lambda: torch.empty(2, device=META).copy_(index),
        lambda: tensor[tensor > 0],
    ):
        with NoWaiting(), pytest.raises((AssertionError, RuntimeError, NotImplementedError)):
            wait()
    with NoWaiting():
        index.to(META, non_blocking=True)


@pytest.mark.parametrize("frozen", [True, False], ids=["frozen encoder", "fine-tuned"])
@pytest.mark.parametrize(
    ("options", "loss"),
    [
        ({}, CaptionLoss(label_smoothing=0.1)),
        ({"attention": lambda *sizes: HardAttention(*sizes, scorer=additive)}, HardAttentionLoss()),
        ({"decoder": TransformerDecoder, "attention": MultiHeadAttention}, CaptionLoss(1.0, "authors")),
    ],
    ids=["soft attention", "hard attention", "transformer"],
)
def test_a_training_step(options, loss, frozen):
    """From a batch in the host's memory to moved weights."""
    trained = model(**options)
    trained.encoder.requires_grad_(not frozen)
    trained, loss = trained.to(META).train(), loss.to(META)
    optimizer = torch.optim.AdamW([weight for weight in trained.parameters() if weight.requires_grad], fused=False)
    pixels, tokens = torch.zeros(3, 3, 64, 64, dtype=torch.uint8), torch.randint(4, VOCAB_SIZE, (3, 2, 6))
    lengths = torch.tensor([[5, 3], [4, 4], [2, 0]])
    for _ in range(2):
        with NoWaiting():
            batch = move(HostBatch(pixels, tokens, lengths, []), META)
            output = trained.decoder(trained.encode(batch.source), batch.tokens, batch.lengths)
            sums = loss(output, batch.tokens[..., 1:])
            optimizer.zero_grad()
            sums.share_of(sums.from_vector(sums.vector())).backward()
            loss.learn(sums)
            torch.nn.utils.clip_grad_norm_(trained.parameters(), 5.0)
            optimizer.step()


@pytest.mark.parametrize(
    "search",
    [GreedySearch(), BeamSearch(4), DiverseBeamSearch(4, 2), Sampling(3, top_k=5, top_p=0.9, seed=None)],
    ids=lambda search: type(search).__name__,
)
@pytest.mark.parametrize("decoder", [ShowAttendTell, TransformerDecoder])
def test_a_search(search, decoder, monkeypatch):
    monkeypatch.setitem(STEPS_BEHIND, "meta", RULES.max_length + 1)
    options = {"attention": MultiHeadAttention} if decoder is TransformerDecoder else {}
    trained = model(decoder, **options).to(META).eval()
    with torch.inference_mode():
        memory = trained.encode(torch.zeros(3, 3, 64, 64, dtype=torch.uint8, device=META))
        search.find(*trained.decoder.begin(memory), RULES)  # tables of phrases are made once
        with NoWaiting():
            search.find(*trained.decoder.begin(memory), RULES)
