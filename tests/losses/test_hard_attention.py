"""Hard attention's gradient estimator against the exact gradient, by enumerating all that could be sampled."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator

import pytest
import torch
from torch.nn.utils import parameters_to_vector

from captioner.losses import CaptionLoss, HardAttentionLoss
from captioner.models import AdditiveAttention, LuongDecoder, ShowAttendTell, TransformerDecoder, UpDown
from captioner.models.attention import HardAttention, hard
from captioner.models.attention.hard import SAMPLED
from captioner.types import Kind, Memory, Segment

NUM_LOCATIONS, NUM_WORDS, VOCAB_SIZE = 3, 2, 5
LENGTHS = torch.tensor([[2, 1], [1, 0]])  # two images; four words in all
REAL = torch.tensor([[True, True, True], [True, True, False]])
SMALL = {"embed_dim": 3, "hidden_dim": 3}
DECODERS = {
    ShowAttendTell: SMALL,
    LuongDecoder: SMALL,
    UpDown: SMALL,
    TransformerDecoder: {"model_dim": 4, "num_layers": 1, "num_heads": 2, "feedforward_dim": 3},
}
PLAIN = {"doubly_stochastic": 0.0, "reward_scale": 1.0, "entropy": 0.0}


def build(cls=ShowAttendTell, sampling_probability: float = 1.0):
    """A tiny decoder that samples, in training mode, in double precision and without dropout."""
    torch.manual_seed(0)
    scorer = functools.partial(AdditiveAttention, attention_dim=3)
    attention = functools.partial(HardAttention, scorer=scorer, sampling_probability=sampling_probability)
    decoder = cls(4, VOCAB_SIZE, attention, dropout=0.0, **DECODERS[cls]).double().train()
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.copy_(torch.randn_like(parameter))  # so that it matters where it looks
    return decoder


def two_images() -> Memory:
    """Of three locations, and of two."""
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(2, NUM_LOCATIONS, 4, generator=generator, dtype=torch.float64)
    return Memory(features, REAL, (Segment(Kind.GRID, NUM_LOCATIONS, grid=(1, NUM_LOCATIONS)),))


def answer(decoder):
    """The decoder's answer to two captions of one image and one of another, and the words."""
    tokens = torch.randint(VOCAB_SIZE, (2, 2, NUM_WORDS + 1), generator=torch.Generator().manual_seed(2))
    return decoder(decoder.prepare(two_images()), tokens, LENGTHS), tokens[..., 1:]


def log_likelihoods(output, targets) -> torch.Tensor:
    """log p(y | s) of every caption that has words, one word at a time."""
    found: dict[tuple[int, int], torch.Tensor] = {}
    for (image, caption, word), logits in zip(words(), output.logits, strict=True):
        log_prob = logits.log_softmax(-1)[targets[image, caption, word]]
        found[image, caption] = found.get((image, caption), 0) + log_prob
    return torch.stack(list(found.values()))


def all_locations() -> Iterator[torch.Tensor]:
    """Every choice (B, K, T) of locations for all real words; 3 * 3 * 3 * 2 of them."""
    choices = [range(int(REAL[image].sum())) for image, *_ in words()]
    for chosen in itertools.product(*choices):
        locations = torch.zeros(2, 2, NUM_WORDS, dtype=torch.long)
        for place, location in zip(words(), chosen, strict=True):
            locations[place] = location
        yield locations


def words() -> list[tuple[int, int, int]]:
    """The places (image, caption, word) of all real words."""
    return [tuple(place) for place in (torch.arange(NUM_WORDS) < LENGTHS[..., None]).nonzero().tolist()]


def draw_these(monkeypatch, locations: torch.Tensor) -> None:
    """Leave nothing to chance: word by word, or all words of a caption one after another."""
    steps = iter(range(NUM_WORDS))

    def drawn(alpha):
        if alpha.shape[1] == 2 * NUM_WORDS:
            return locations.flatten(1)
        return locations[: alpha.shape[0], : alpha.shape[1], next(steps)]

    monkeypatch.setattr(hard, "sample_locations", drawn)


def gradient(decoder, value) -> torch.Tensor:
    """Of all weights, in one row."""
    found = torch.autograd.grad(value, list(decoder.parameters()), retain_graph=True, materialize_grads=True)
    return parameters_to_vector(found)


@pytest.mark.parametrize("cls", DECODERS, ids=lambda cls: cls.__name__)
def test_the_estimator_s_mean_is_the_exact_gradient(cls, monkeypatch):
    """Whatever the baseline: of E_s[log p(y | s)], with s as likely as the weights say."""
    decoder = build(cls)
    losses = [HardAttentionLoss(**PLAIN | {"reward_scale": scale}).double() for scale in (1.0, 1.0, 0.0)]
    losses[1].baseline.fill_(-1.7)
    expectation, total_probability, means, squares = 0.0, 0.0, [0.0] * 3, [0.0] * 3
    for locations in all_locations():
        draw_these(monkeypatch, locations)
        output, targets = answer(decoder)
        probability = math.prod(output.alpha[place][locations[place]] for place in words())
        expectation = expectation + probability * log_likelihoods(output, targets).sum()
        total_probability += probability.item()
        for number, loss in enumerate(losses):
            found = gradient(decoder, loss.eval()(output, targets).total)
            means[number] = means[number] + probability.detach() * found
            squares[number] += (probability * found.square().sum()).item()
    assert total_probability == pytest.approx(1, abs=1e-12)
    exact = gradient(decoder, -expectation)
    assert exact.abs().max() > 0.1
    for mean in means[:2]:
        torch.testing.assert_close(mean, exact, atol=1e-8, rtol=0)
    assert (means[2] - exact).abs().max() > 1e-4  # rewards are a part of it that matters,
    assert squares[0] != pytest.approx(squares[1])  # and each sample's gradient changes with the baseline


def test_the_entropy_s_gradient(monkeypatch):
    decoder = build()
    draw_these(monkeypatch, next(all_locations()))
    output, targets = answer(decoder)
    by_hand = torch.zeros((), dtype=torch.float64)
    for image, caption, word in words():
        for weight in output.alpha[image, caption, word, REAL[image]]:
            by_hand = by_hand - weight * weight.log()
    loss = HardAttentionLoss(**PLAIN | {"reward_scale": 0.0, "entropy": 0.3}).double().eval()
    total = loss(output, targets).total
    expected = -log_likelihoods(output, targets).sum() - 0.3 * by_hand
    torch.testing.assert_close(total, expected, atol=1e-10, rtol=0)
    torch.testing.assert_close(gradient(decoder, total), gradient(decoder, expected), atol=1e-10, rtol=0)


def test_the_baseline_is_a_moving_average_of_rewards():
    decoder, loss = build(), HardAttentionLoss().double().train()
    baseline = 0.0
    for _ in range(3):
        output, targets = answer(decoder)
        reward = log_likelihoods(output, targets).mean().item()
        sums = loss(output, targets)
        logs = {name: mean.value for name, mean in sums.logs.items()}
        assert logs.keys() == {"nll", "doubly_stochastic", "reward", "baseline", "entropy"}
        assert not any(value.requires_grad for value in logs.values())
        assert logs["reward"].item() == pytest.approx(reward, abs=1e-9)
        assert logs["baseline"].item() == pytest.approx(baseline, abs=1e-9)  # the one that is used
        entropy = sum(torch.special.entr(output.alpha[place]).sum().item() for place in words()) / len(words())
        assert logs["entropy"].item() == pytest.approx(entropy, abs=1e-9)
        loss.learn(sums.from_vector(2 * sums.vector()))  # of two processes with the same
        baseline = 0.9 * baseline + 0.1 * reward
        assert loss.baseline.item() == pytest.approx(baseline, abs=1e-9)
    assert "baseline" in loss.state_dict()  # a run goes on with it


def test_a_batch_without_captions_moves_no_baseline():
    loss = HardAttentionLoss().double().train()
    loss.baseline.fill_(-2.0)
    output, targets = answer(build())
    nothing = output._replace(
        logits=output.logits[:0],
        mask=torch.zeros_like(output.mask),
        places=output.places[:0],
        extras={name: torch.zeros_like(extra) for name, extra in output.extras.items()},
    )
    sums = loss(nothing, targets)
    assert sums.total.item() == 0
    loss.learn(sums)
    assert loss.baseline.item() == -2.0


def test_a_batch_of_expected_weights_is_learnt_as_by_soft_attention():
    decoder = build(sampling_probability=0.0)
    output, targets = answer(decoder)
    assert not output.extras["sample_log_prob"].any()
    reinforced = HardAttentionLoss(doubly_stochastic=0.5, entropy=0.0).double().train()
    reinforced.baseline.fill_(-3.0)
    found = gradient(decoder, reinforced(output, targets).total)
    expected = gradient(decoder, CaptionLoss(doubly_stochastic=0.5).add_up(output, targets).total)
    assert torch.equal(found, expected)


def test_half_of_the_batches_are_sampled():
    decoder = build(sampling_probability=0.5)
    torch.manual_seed(0)
    sampled = sum(bool(decoder.prepare(two_images()).notes[SAMPLED].all()) for _ in range(200))
    assert 70 < sampled < 130


def test_evaluation_knows_no_chance():
    decoder, loss = build().eval(), HardAttentionLoss(**PLAIN).double().eval()
    loss.baseline.fill_(-1.0)
    found = []
    for seed in range(2):
        torch.manual_seed(seed)
        output, targets = answer(decoder)
        found.append(loss(output, targets).total)
        torch.testing.assert_close(found[-1], -log_likelihoods(output, targets).sum())
    assert torch.equal(*found)
    assert loss.baseline.item() == -1.0


def test_a_soft_decoder_is_refused_in_training():
    torch.manual_seed(0)
    soft = ShowAttendTell(4, VOCAB_SIZE, **SMALL).double()
    with pytest.raises(ValueError, match="give the decoder HardAttention, or use CaptionLoss"):
        HardAttentionLoss().train()(*answer(soft))
