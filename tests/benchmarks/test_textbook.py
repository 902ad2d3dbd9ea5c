"""The opponent is not made of straw: the textbook gives what ours gives, to rounding."""

from __future__ import annotations

import pytest
import torch

from benchmarks.textbook import (
    caption_loss,
    search,
    textbook_encoder_of,
    textbook_of,
    textbook_weights,
)
from benchmarks.training import OurStep, TextbookStep, per_caption
from benchmarks.workload import QUICK, Sizes, as_memory, make_features, training_batches
from captioner.decoding import BeamSearch, Rules
from captioner.losses import CaptionLoss
from captioner.models import AdditiveAttention, GridEncoder, ShowAttendTell

SIZES = Sizes(num_images=3, captions_per_image=4, grid=3, feature_dim=10, hidden_dim=12, vocab_size=40)
RULES = Rules(bos_id=1, eos_id=2, never=(0, 1, 3), max_length=8)
VARIANTS = [("scalar", True), ("vector", True), ("none", True), ("scalar", False)]


def make_ours(gate: str = "scalar", deep_output: bool = True, seed: int = 0) -> ShowAttendTell:
    """Weights on a scale where captions depend on what is seen."""
    torch.manual_seed(seed)
    decoder = ShowAttendTell(
        SIZES.feature_dim,
        SIZES.vocab_size,
        lambda feature_dim, query_dim: AdditiveAttention(feature_dim, query_dim, 11),
        embed_dim=13,
        hidden_dim=SIZES.hidden_dim,
        gate=gate,
        deep_output=deep_output,
        dropout=0.0,
    ).double()
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.mul_(3)
    return decoder


@pytest.mark.parametrize(("gate", "deep_output"), VARIANTS)
def test_losses_gradients_and_alphas_are_ours(gate, deep_output):
    ours = make_ours(gate, deep_output)
    book = textbook_of(ours)
    batch = next(training_batches(SIZES))
    features = make_features(SIZES).double()

    output = ours(ours.prepare(as_memory(features, SIZES.grid)), batch.tokens, batch.lengths)
    sums = CaptionLoss(doubly_stochastic=0.7)(output, batch.tokens[..., 1:])
    expected_loss = sum(term.total / term.number for term in sums.terms.values())
    expected_loss.backward()
    predicted = book(per_caption(features, SIZES), batch.tokens.flatten(0, 1), batch.lengths.flatten())
    loss = caption_loss(predicted, strength=0.7)
    loss.backward()

    torch.testing.assert_close(loss, expected_loss, rtol=1e-9, atol=0)
    expected = textbook_weights({name: weight.grad for name, weight in ours.named_parameters()}, SIZES.feature_dim)
    for name, weight in book.named_parameters():
        if name != "cell.bias_hh":  # an LSTMCell has a bias twice
            torch.testing.assert_close(weight.grad, expected[name], rtol=1e-9, atol=1e-12)
    num_steps = predicted.alphas.shape[1]
    alphas = output.alpha.flatten(0, 1)[predicted.order][:, :num_steps]
    torch.testing.assert_close(predicted.alphas, alphas.to(predicted.alphas), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("length_penalty", [0.0, 0.7])
@pytest.mark.parametrize(("gate", "deep_output"), VARIANTS)
def test_captions_and_where_it_looked_are_ours(gate, deep_output, length_penalty):
    ours = make_ours(gate, deep_output)
    with torch.no_grad():
        ours.output.bias[RULES.eos_id] += 3
    book = textbook_of(ours)
    features = 10 * make_features(Sizes(num_images=12, grid=3, feature_dim=10)).double()  # so that images matter
    with torch.no_grad():
        memory = ours.prepare(as_memory(features, SIZES.grid))
        found = BeamSearch(4, length_penalty)(*ours.begin(memory), RULES)
        finished = {hypotheses[0].finished for hypotheses in found}
        for image, (best, *_) in enumerate(found):
            theirs = search(book, features[image : image + 1], RULES, 4, length_penalty)
            assert theirs.words == best.tokens
            assert theirs.score == pytest.approx(best.score, rel=1e-5)  # ours adds up in float32
            words = [*best.tokens, RULES.eos_id] if best.finished else best.tokens
            tokens = torch.tensor([[[RULES.bos_id, *words]]])
            output = ours(memory.map(lambda t, i=image: t[i : i + 1]), tokens, torch.tensor([[len(words)]]))
            torch.testing.assert_close(theirs.alphas, output.alpha[0, 0].to(theirs.alphas), rtol=1e-6, atol=1e-9)
    assert len({tuple(hypotheses[0].tokens) for hypotheses in found}) >= 3  # images matter
    assert True in finished


def test_captions_that_never_end_are_ours():
    ours = make_ours()
    with torch.no_grad():
        ours.output.bias[RULES.eos_id] -= 100
    features = make_features(SIZES).double()
    with torch.no_grad():
        memory = ours.prepare(as_memory(features, SIZES.grid))
        found = BeamSearch(3, 0.7)(*ours.begin(memory), RULES)
    for image, (best, *_) in enumerate(found):
        theirs = search(textbook_of(ours), features[image : image + 1], RULES, 3, 0.7)
        assert not best.finished
        assert theirs.words == best.tokens
        assert len(theirs.alphas) == RULES.max_length


def test_training_goes_the_same_way():
    """Several whole steps: clipping and Adam too."""
    device = torch.device("cpu")
    ours = OurStep(QUICK, device)
    book = TextbookStep(QUICK, device)
    features = make_features(QUICK)
    for batch in list(training_batches(QUICK))[:3]:
        loss = book(per_caption(features, QUICK), batch)
        torch.testing.assert_close(loss, ours(features, batch), rtol=1e-4, atol=0)


def test_the_encoder_is_ours():
    torch.manual_seed(0)
    encoder = GridEncoder("timm/test_efficientnet", weights="none", output_stride=16)
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        features = textbook_encoder_of(encoder)(pixels)
        torch.testing.assert_close(features, encoder(pixels).features, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "options", [{"normalise_features": True}, {"dropout": 0.5}, {"output_tanh": False}, {"gated_output": False}]
)
def test_what_the_textbook_lacks_is_refused(options):
    ours = ShowAttendTell(8, 20, embed_dim=8, hidden_dim=8, **{"dropout": 0.0, **options})
    with pytest.raises(ValueError, match="the textbook"):
        textbook_of(ours)
