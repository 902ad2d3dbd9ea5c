"""Sums: of batches, of processes, of nothing."""

from __future__ import annotations

import pytest
import torch
from loss_cases import NUM_LOCATIONS, answer, hard_answer, told

from captioner.losses import SCALES, CaptionLoss, HardAttentionLoss, LossSums, Mean


def assert_same_sums(one, other):
    assert (list(one.terms), list(one.logs)) == (list(other.terms), list(other.logs))
    torch.testing.assert_close(one.vector(), other.vector())


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
    assert_same_sums(whole, expected)
    torch.testing.assert_close(sum(part.share_of(whole) for part in parts), expected.total)
    torch.testing.assert_close(whole.total, expected.total)
    total = sum(part.total for part in parts)
    if scale == "mean" and strength:
        without = CaptionLoss(0.0, scale, 0.1)(output, targets).total
        terms = [part.logs["doubly_stochastic"].value / NUM_LOCATIONS for part in parts]
        term = sum(term * part.count for term, part in zip(terms, parts, strict=True))
        torch.testing.assert_close(total, without + term)
        assert not torch.isclose(total, expected.total, rtol=1e-5)
    else:
        torch.testing.assert_close(total, expected.total)


def test_sums_of_processes_carry_what_a_loss_logs():
    output, targets = hard_answer()
    loss = HardAttentionLoss()
    sums = loss(output, targets)
    twice = sums.from_vector(2 * sums.vector())
    assert twice.logs.keys() == {"nll", "doubly_stochastic", "reward", "baseline", "entropy"}
    assert list(twice.terms) == ["likelihood", "reinforced", "doubly_stochastic"]
    for name, mean in twice.logs.items():
        torch.testing.assert_close(mean.total, 2 * sums.logs[name].total)
        torch.testing.assert_close(mean.value, sums.logs[name].value)
    assert not sums.vector().requires_grad


@pytest.mark.parametrize("scale", SCALES)
def test_a_batch_without_captions_is_nought(scale):
    sums = CaptionLoss(1.0, scale, 0.1)(*answer(torch.zeros(2, 3, dtype=torch.long)))
    assert not sums.vector().any()
    assert sums.mean == 0


def test_the_example_of_the_documentation():
    """docs/training.md: three captions, of two processes and one accumulated batch."""

    def sums(nll, words, term):
        """Of captions with so many words each."""
        captions = torch.tensor(float(len(words)))
        terms = {"likelihood": Mean(torch.tensor(nll), torch.tensor(float(sum(words))))}
        return LossSums({**terms, "doubly_stochastic": Mean(torch.tensor(term), captions)})

    first = sums(12.0, [4], 0.3), sums(18.0, [6], 0.5)  # the two processes' first batches
    second = sums(10.0, [5], 0.4), sums(0.0, [], 0.0)  # what is accumulated: one caption more, and none
    wholes = [a.from_vector(a.vector() + b.vector()) for a, b in (first, second)]
    shares = [
        [share.share_of(whole).item() for share in batch] for batch, whole in zip((first, second), wholes, strict=True)
    ]
    assert shares == [pytest.approx([13.5, 20.5]), pytest.approx([12.0, 0.0])]
    assert [whole.mean.item() for whole in wholes] == pytest.approx([3.4, 2.4])
    whole = wholes[0].from_vector(wholes[0].vector() + wholes[1].vector())
    assert whole.count == 15
    assert sum(map(sum, shares)) / whole.count.item() == pytest.approx(46 / 15)
    of_likelihood = whole.terms["likelihood"].value.item()
    assert of_likelihood == pytest.approx(40 / 15)
    assert 46 / 15 - of_likelihood == pytest.approx((10 * 0.4 + 5 * 0.4) / 15)
