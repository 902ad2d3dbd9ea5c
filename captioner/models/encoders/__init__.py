"""Encoders: images or sentences in, a memory out."""

from captioner.models.encoders.base import Encoder
from captioner.models.encoders.grid import GridEncoder
from captioner.models.encoders.joint import JointEncoder
from captioner.models.encoders.regions import PrecomputedRegions, RegionEncoder
from captioner.models.encoders.words import WordEncoder

__all__ = ["Encoder", "GridEncoder", "JointEncoder", "PrecomputedRegions", "RegionEncoder", "WordEncoder"]
