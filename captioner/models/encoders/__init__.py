"""Encoders: pixels in, a memory out."""

from captioner.models.encoders.base import Encoder
from captioner.models.encoders.grid import GridEncoder

__all__ = ["Encoder", "GridEncoder"]
