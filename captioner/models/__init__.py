"""Models: encoders, attention, decoders, and the model that joins them."""

from captioner.models.attention import AdditiveAttention, Attention
from captioner.models.decoders import (
    AdaptiveDecoder,
    Decoder,
    LuongDecoder,
    RecurrentDecoder,
    ShowAndTell,
    ShowAttendTell,
    TransformerDecoder,
    UpDown,
)
from captioner.models.encoders import Encoder, GridEncoder, JointEncoder, PrecomputedRegions, RegionEncoder, WordEncoder
from captioner.models.model import CaptionModel, ParameterGroup

__all__ = [
    "AdaptiveDecoder",
    "AdditiveAttention",
    "Attention",
    "CaptionModel",
    "Decoder",
    "Encoder",
    "GridEncoder",
    "JointEncoder",
    "LuongDecoder",
    "ParameterGroup",
    "PrecomputedRegions",
    "RecurrentDecoder",
    "RegionEncoder",
    "ShowAndTell",
    "ShowAttendTell",
    "TransformerDecoder",
    "UpDown",
    "WordEncoder",
]
