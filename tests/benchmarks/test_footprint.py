"""Memory on paper."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from benchmarks.footprint import peak_of, step_bytes, table
from benchmarks.workload import QUICK

MEGA = 4_000_000  # of a square of a thousand, in bytes


def square() -> torch.Tensor:
    return torch.empty(1000, 1000, device="meta")


def test_what_is_let_go_makes_room():
    def work() -> None:
        tensor = square()
        for _ in range(5):
            tensor = tensor + 1

    assert peak_of(work) == 2 * MEGA


def test_views_take_nothing():
    tensor = square()
    assert peak_of(lambda: tensor.view(-1)[None].expand(50, -1).t()) == 0


def test_what_backward_needs_is_kept():
    """Inputs of four layers, then the gradients of two of them while the last input is let go."""
    network = nn.Sequential(*[nn.Linear(1000, 1000, bias=False) for _ in range(4)]).to("meta")
    assert peak_of(lambda: network(square()).sum().backward()) == pytest.approx(7 * MEGA, rel=1e-3)
    with torch.no_grad():
        assert peak_of(lambda: network(square())) == 3 * MEGA


def test_a_step_s_memory_grows_with_the_batch_and_what_is_trained():
    larger = replace(QUICK, num_images=4 * QUICK.num_images)
    for options in ({"live": False}, {"live": True}, {"live": True, "fine_tuned": True}):
        assert step_bytes(QUICK, **options) < step_bytes(larger, **options)
    assert step_bytes(larger, live=True) < step_bytes(larger, live=True, fine_tuned=True)
    assert "| frozen timm/test_efficientnet |" in table(QUICK, (2, 4))
