"""Fixtures of this folder."""

from __future__ import annotations

import pytest
import torch

from captioner.checkpoint import Bundle
from captioner.data import TextTransform
from captioner.models import AdditiveAttention, CaptionModel, ShowAttendTell
from captioner.models.encoders import WordEncoder
from captioner.tokenizer import Characters, WordLevel


@pytest.fixture
def translator() -> Bundle:
    """A model that reads sentences."""
    torch.manual_seed(0)
    source, target = WordLevel(1).fit(["der dritte März 1999"]), Characters().fit(["1999-03-03"])
    decoder = ShowAttendTell(12, target.vocab_size, lambda *sizes: AdditiveAttention(*sizes, 8), 8, 8)
    encoder = WordEncoder(source.vocab_size, embed_dim=5, hidden_dim=6, cell="gru")
    return Bundle(CaptionModel(encoder, decoder).eval(), target, TextTransform(source), {"note": "a test"})
