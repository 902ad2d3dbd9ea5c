"""Sums: of batches, of processes, of nothing."""

from __future__ import annotations

import pytest
import torch
from loss_cases import NUM_LOCATIONS, answer, hard_answer, told

from captioner.losses import SCALES, CaptionLoss, HardAttentionLoss


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("strength", [0.0, 1.0])
def test_sums_do_not_depend_on_the_split_into_batches(scale, strength):
    """Processes: the parts' shares are the total of the whole, and so are the sums. Accumulated batches likewise.

    But for the term under "mean": there each accumulated batch's own mean counts by its words.
    """
    output, targets = answer()
    loss = CaptionLoss(strength, scale, 0.1)
    expected = loss(output, targets)
    parts, row = [], 0
    for images in (slice(0, 1), slice(1, 3)):
        num_rows = int(output.mask[images].sum())
        part = told(
            output.logits[row : row + num_rows], output.mask[images], output.alpha[images], output.locations[images]
        )
        parts.append(loss(part, targets[images]))
        row += num_rows
    whole = parts[0].from_vector(parts[0].vector() + parts[1].vector())
    torch.testing.assert_close(vars(whole), vars(expected), check_dtype=False)
    torch.testing.assert_close(sum(part.share_of(whole) for part in parts), expected.total)
    torch.testing.assert_close(whole.total, expected.total)
    total = sum(part.total for part in parts)
    if scale == "mean" and strength:
        without = CaptionLoss(0.0, scale, 0.1)(output, targets).total
        term = sum(part.doubly_stochastic / part.captions / NUM_LOCATIONS * part.words for part in parts)
        torch.testing.assert_close(total, without + term)
        assert not torch.isclose(total, expected.total, rtol=1e-5)
    else:
        torch.testing.assert_close(total, expected.total)


def test_sums_of_processes_carry_what_a_loss_logs():
    output, targets = hard_answer()
    loss = HardAttentionLoss()
    sums = loss(output, targets)
    twice = sums.from_vector(2 * sums.vector())
    assert twice.logs.keys() == {"reward", "baseline", "entropy"}
    for name, mean in twice.logs.items():
        torch.testing.assert_close(mean.total, 2 * sums.logs[name].total)
        torch.testing.assert_close(mean.value, sums.logs[name].value)
    assert not sums.vector().requires_grad


@pytest.mark.parametrize("scale", SCALES)
def test_a_batch_without_captions_is_nought(scale):
    sums = CaptionLoss(1.0, scale, 0.1)(*answer(torch.zeros(2, 3, dtype=torch.long)))
    assert all(value.item() == 0 for name, value in vars(sums).items() if name != "logs")
    assert not sums.logs
