"""Memory on paper."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from benchmarks import footprint
from benchmarks.footprint import peak_of, step_bytes
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
    frozen = step_bytes(QUICK, live=True)
    assert frozen < step_bytes(replace(QUICK, num_images=4 * QUICK.num_images), live=True)
    assert frozen < step_bytes(QUICK, live=True, fine_tuned=True)


def test_the_table_has_all_cases(monkeypatch):
    monkeypatch.setattr(footprint, "step_bytes", lambda sizes, **options: sizes.num_images * 1e9)
    rows = footprint.table(QUICK, (2, 4)).splitlines()
    assert rows[0] == "| images, 5 captions each | 2 | 4 |"
    assert rows[3] == "| frozen timm/test_efficientnet | 2.0 GB | 4.0 GB |"
    assert len(rows) == 5
