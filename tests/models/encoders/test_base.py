"""What all encoders share."""

from __future__ import annotations


def test_frozen_says_whether_memories_may_be_cached(encoder):
    assert encoder.frozen == (not any(parameter.requires_grad for parameter in encoder.parameters()))
    encoder.requires_grad_(False)
    assert encoder.frozen
