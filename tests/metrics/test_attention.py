"""What attention weights say of themselves."""

from __future__ import annotations

import math

import pytest
import torch

from captioner.metrics import attention_entropy

HERE, THERE, EVERYWHERE = [1.0, 0, 0, 0], [0, 0, 1.0, 0], [0.25] * 4


def test_one_location_and_all_alike():
    alpha = torch.tensor([HERE, EVERYWHERE, [0.0] * 4])
    assert attention_entropy(alpha, {}).tolist() == pytest.approx([0, math.log(4), 0])


def test_heads_are_distributions_of_their_own():
    """Two heads that each look at one place are sure, though their mean is not."""
    heads = torch.tensor([[HERE, THERE], [HERE, EVERYWHERE]])  # (words, N, L)
    entropy = attention_entropy(heads.mean(dim=1), {"heads": heads})
    assert entropy.tolist() == pytest.approx([0, math.log(4) / 2])


def test_a_sentinel_is_one_more_place():
    alpha = torch.tensor([[0.2] * 4, [0.0] * 4, HERE])
    entropy = attention_entropy(alpha, {"sentinel": torch.tensor([0.2, 1, 0])})
    assert entropy.tolist() == pytest.approx([math.log(5), 0, 0], abs=1e-5)
    heads = torch.tensor([[HERE, [0.0] * 4]])  # the second head looks at the sentinel alone
    assert attention_entropy(heads.mean(dim=1), {"heads": heads, "sentinel": torch.tensor([0.5])}).item() == 0


def test_rows_that_do_not_sum_to_1_are_read_as_shares():
    assert attention_entropy(torch.tensor([[0.1, 0, 0.1, 0]]), {}).item() == pytest.approx(math.log(2))


def test_half_precision_is_summed_in_single():
    alpha = torch.full((1, 441), 1 / 441, dtype=torch.bfloat16)
    assert attention_entropy(alpha, {}).item() == pytest.approx(math.log(441), abs=1e-3)
