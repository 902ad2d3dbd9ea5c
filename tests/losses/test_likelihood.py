"""The loss against hand loops, and its sums under any split into batches."""

from __future__ import annotations

import math

import pytest
import torch
from loss_cases import LENGTHS, NUM_LOCATIONS, NUM_WORDS, VOCAB_SIZE, answer, hard_answer, told
from torch.nn import functional

from captioner.losses import SCALES, CaptionLoss, HardAttentionLoss, doubly_stochastic_term
from captioner.types import TeacherForced


def by_hand(output, targets, label_smoothing=0.0):
    """(sum of losses over words, terms of captions that have words), one word and one location at a time."""
    words, terms, row = 0.0, [], 0
    for image, caption in [(b, k) for b in range(len(targets)) for k in range(targets.shape[1])]:
        attended = [0.0] * NUM_LOCATIONS
        length = int(output.mask[image, caption].sum())
        for step in range(length):
            log_probs = output.logits[row].double().log_softmax(-1).tolist()
            row += 1
            right = -log_probs[targets[image, caption, step]]
            words += (1 - label_smoothing) * right + label_smoothing * -sum(log_probs) / VOCAB_SIZE
            for location in range(NUM_LOCATIONS):
                attended[location] += output.alpha[image, caption, step, location].item()
        if length:
            terms.append(sum((1 - total) ** 2 for total in attended))
    return words, terms


def test_doubly_stochastic_term_equals_a_loop():
    output, targets = answer()
    term = doubly_stochastic_term(output.alpha, output.mask, output.locations)
    assert term.shape == LENGTHS.shape
    _, terms = by_hand(output, targets)
    torch.testing.assert_close(term[LENGTHS > 0], torch.tensor(terms))
    assert not term[LENGTHS == 0].any()


def test_attending_once_everywhere_costs_nothing():
    mask, everywhere = torch.ones(1, 1, 4, dtype=torch.bool), torch.ones(1, 4, dtype=torch.bool)
    assert not doubly_stochastic_term(torch.full((1, 1, 4, 4), 0.25), mask, everywhere).any()
    assert doubly_stochastic_term(torch.eye(4)[[0, 0, 0, 0]][None, None], mask, everywhere).item() == (4 - 1) ** 2 + 3


@pytest.mark.parametrize("strength", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("scale", SCALES)
def test_each_scale_is_what_its_name_says(scale, strength):
    output, targets = answer()
    sums = CaptionLoss(strength, scale)(output, targets)
    nll, terms = by_hand(output, targets)
    num_words, num_captions, num_locations = int(LENGTHS.sum()), int((LENGTHS > 0).sum()), NUM_LOCATIONS
    expected = {
        "paper": nll / num_captions + strength * sum(terms) / num_captions,
        "authors": nll / num_captions + strength * 64 / num_locations * sum(terms) / num_captions,
        "mean": nll / num_words + strength * sum(terms) / (num_captions * num_locations),
    }[scale]
    assert sums.mean.item() == pytest.approx(expected, rel=1e-5)
    assert sums.logs["nll"].total.item() == pytest.approx(nll, rel=1e-5)
    assert (sums.logs["nll"].number.item(), sums.logs["doubly_stochastic"].number.item()) == (num_words, num_captions)
    assert sums.logs["doubly_stochastic"].total.item() == pytest.approx(sum(terms) if strength else 0.0, rel=1e-5)


def test_the_scales_stand_as_documented():
    """With 196 locations and captions of 11 words, one lambda is 1, 0.33 and 0.056 of the paper's."""
    mask = torch.ones(2, 3, 11, dtype=torch.bool)
    alpha = torch.rand(2, 3, 11, 196).softmax(-1)
    output = told(torch.zeros(66, 5), mask, alpha, torch.ones(2, 196, dtype=torch.bool))
    targets = torch.zeros(2, 3, 11, dtype=torch.long)
    shares = {}
    for scale in SCALES:
        sums = CaptionLoss(1.0, scale)(output, targets)
        without = CaptionLoss(0.0, scale)(output, targets)
        shares[scale] = ((sums.total - without.total) / sums.logs["nll"].total).item()  # relative to the likelihood
    relative = {scale: share / shares["paper"] for scale, share in shares.items()}
    assert relative == pytest.approx({"paper": 1, "authors": 64 / 196, "mean": 11 / 196}, rel=1e-4)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.6])
def test_label_smoothing_is_torch_s_word_by_word(smoothing):
    output, targets = answer()
    sums = CaptionLoss(0.0, "mean", smoothing)(output, targets)
    by_word = [
        functional.cross_entropy(logits[None], word[None], label_smoothing=smoothing)
        for logits, word in zip(output.logits, targets[output.mask], strict=True)
    ]
    assert sums.total.item() == pytest.approx(sum(by_word).item(), rel=1e-5)
    assert sums.total.item() == pytest.approx(by_hand(output, targets, smoothing)[0], rel=1e-5)
    assert sums.logs["nll"].total.item() == pytest.approx(by_hand(output, targets)[0], rel=1e-5)  # never smoothed


@pytest.mark.parametrize("scale", SCALES)
def test_padding_adds_nothing(scale):
    output, targets = answer()
    loss = CaptionLoss(1.0, scale, 0.1)
    expected = loss(output, targets)
    rubbish = torch.where(output.mask, targets, -12345)
    wider = told(
        output.logits,
        functional.pad(output.mask, (0, 3, 0, 2, 0, 1)),
        functional.pad(output.alpha, (0, 0, 0, 3, 0, 2, 0, 1)),
        functional.pad(output.locations, (0, 0, 0, 1), value=True),
    )
    padded_locations = output._replace(
        alpha=functional.pad(output.alpha, (0, 4)), locations=functional.pad(output.locations, (0, 4))
    )
    for other in (
        loss(output, rubbish),
        loss(wider, functional.pad(rubbish, (0, 3, 0, 2, 0, 1), value=-1)),
        loss(padded_locations, targets),
    ):
        torch.testing.assert_close(vars(other), vars(expected))


@pytest.mark.parametrize("scale", SCALES)
def test_images_of_more_and_fewer_locations_count_as_they_do_alone(scale):
    """A batch pads locations; each image's term is divided by the number of its own."""
    lengths = torch.full((2, 1), 4)
    output, targets = answer(lengths)
    fewer = torch.cat([output.alpha[1:, ..., :3].softmax(-1), torch.zeros(1, 1, NUM_WORDS, NUM_LOCATIONS - 3)], dim=-1)
    fewer = fewer * output.mask[1:, ..., None]
    locations = torch.arange(NUM_LOCATIONS) < torch.tensor([[NUM_LOCATIONS], [3]])
    both = output._replace(alpha=torch.cat([output.alpha[:1], fewer]), locations=locations)
    loss = CaptionLoss(0.7, scale)
    alone = [
        told(both.logits[:4], both.mask[:1], both.alpha[:1], locations[:1]),
        told(both.logits[4:], both.mask[1:], fewer[..., :3], locations[1:, :3]),
    ]
    parts = [loss(part, targets[[image]]).total for image, part in enumerate(alone)]
    torch.testing.assert_close(sum(parts), loss(both, targets).total)


@pytest.mark.parametrize("scale", SCALES)
def test_gradients_reach_words_and_attention_but_not_padding(scale):
    output, targets = answer()
    CaptionLoss(1.0, scale)(output, targets).total.backward()
    assert output.logits.grad.any(dim=-1).all()
    assert output.alpha.grad[output.mask].any(dim=-1).all()
    assert not output.alpha.grad[LENGTHS == 0].any()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("loss", [CaptionLoss, HardAttentionLoss])
@pytest.mark.parametrize("scale", SCALES)
def test_no_captions_are_no_loss(scale, loss, smoothing):
    """Neither is their mean NaN, nor a gradient."""
    mask = torch.zeros(2, 3, 4, dtype=torch.bool)
    alpha, path = torch.zeros(2, 3, 4, 5, requires_grad=True), torch.zeros(2, 3, 4, requires_grad=True)
    sampled = {"sample_log_prob": path, "entropy": path} if loss is HardAttentionLoss else {}
    locations, places = torch.ones(2, 5, dtype=torch.bool), torch.zeros(0, dtype=torch.long)
    output = TeacherForced(torch.zeros(0, 7, requires_grad=True), mask, alpha, sampled, locations, places)
    sums = loss(scale=scale, label_smoothing=smoothing)(output, torch.zeros(2, 3, 4, dtype=torch.long))
    sums.mean.backward()
    assert sums.mean.item() == sums.count.item() == 0
    assert {mean.value.item() for mean in sums.logs.values()} == {0}
    assert not alpha.grad.any()


def test_a_decoder_that_does_not_attend_has_no_term():
    output, targets = answer()
    sums = CaptionLoss(1.0, "paper")(output._replace(alpha=None), targets)
    assert sums.logs["doubly_stochastic"].total == 0
    torch.testing.assert_close(sums.total, sums.logs["nll"].total)


def test_half_precision_logits_are_added_up_in_single():
    output, targets = answer()
    sums = CaptionLoss(1.0, "mean")(output._replace(logits=output.logits.bfloat16()), targets)
    assert sums.total.dtype == torch.float32
    assert sums.logs["nll"].total.item() / LENGTHS.sum().item() == pytest.approx(
        by_hand(output, targets)[0] / 21, rel=0.01
    )
    assert not math.isnan(sums.total.item())


def test_double_precision_is_kept():
    output, targets = answer()
    assert CaptionLoss()(output._replace(logits=output.logits.double()), targets).total.dtype == torch.float64


def test_an_unknown_scale_is_refused_with_the_choices():
    with pytest.raises(ValueError, match=r"'tutorial' is not one of paper, authors, mean"):
        CaptionLoss(scale="tutorial")


def test_sampled_locations_do_not_go_unrewarded():
    output, targets = hard_answer()
    with pytest.raises(ValueError, match="take HardAttentionLoss"):
        CaptionLoss()(output, targets)
    assert CaptionLoss().eval()(output, targets).logs["nll"].number == LENGTHS.sum()


@pytest.mark.parametrize("scale", SCALES)
def test_what_reward_and_entropy_weigh(scale):
    output, targets = hard_answer()
    loss = HardAttentionLoss(0.0, scale, reward_scale=0.1, entropy=0.002)
    loss.baseline.fill_(-2.0)
    found = loss(output, targets).total - CaptionLoss(0.0, scale).add_up(output, targets).total
    log_probs = output.logits.log_softmax(-1).gather(-1, targets[output.mask][:, None])[:, 0]
    expected, row = 0.0, 0
    for image, caption in (LENGTHS > 0).nonzero().tolist():
        length = int(LENGTHS[image, caption])
        reward = log_probs[row : row + length].sum().item()
        row += length
        path = output.extras["sample_log_prob"][image, caption].sum().item()
        if scale == "authors":  # 64 captions beside a mean over them; means over a caption's words
            expected -= 64 * (0.1 * (reward / length + 2.0) * path - 0.002 * path)
        else:
            expected -= 0.1 * (reward + 2.0) * path - 0.002 * path
    assert found.item() == pytest.approx(expected, rel=1e-4)
