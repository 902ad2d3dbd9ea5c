"""Factors of the learning rate."""

from __future__ import annotations

import pytest

from captioner.training import Constant, EpochDecay, WarmupCosine


def test_constant():
    assert {Constant().factor(step, 100, 10) for step in range(100)} == {1.0}


def test_epoch_decay():
    factors = [EpochDecay(0.5, every=2).factor(step, 60, 10) for step in range(60)]
    assert factors == [1.0] * 20 + [0.5] * 20 + [0.25] * 20


def test_warmup_cosine():
    factors = [WarmupCosine(warmup_steps=4, final=0.1).factor(step, 24, 6) for step in range(25)]
    assert factors[:4] == [0.25, 0.5, 0.75, 1.0]
    assert factors[4] == 1.0
    assert factors[14] == pytest.approx(0.55)
    assert factors[24] == pytest.approx(0.1)
    assert factors[4:] == sorted(factors[4:], reverse=True)


def test_warmup_cosine_past_its_end():
    assert WarmupCosine(0).factor(0, 5, 5) == 1.0
    assert WarmupCosine(0).factor(99, 5, 5) == pytest.approx(0.0)
    assert WarmupCosine(9).factor(9, 9, 9) == 1.0
