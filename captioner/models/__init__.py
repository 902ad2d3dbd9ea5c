"""Models: encoders, attention, decoders, and the model that joins them."""

from captioner.models.attention import AdditiveAttention, Attention
from captioner.models.decoders import Decoder, RecurrentDecoder, ShowAttendTell
from captioner.models.encoders import Encoder, GridEncoder
from captioner.models.model import CaptionModel

__all__ = [
    "AdditiveAttention",
    "Attention",
    "CaptionModel",
    "Decoder",
    "Encoder",
    "GridEncoder",
    "RecurrentDecoder",
    "ShowAttendTell",
]
