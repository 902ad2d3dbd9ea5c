"""Decoders: a memory in, words out."""

from captioner.models.decoders.adaptive import AdaptiveDecoder
from captioner.models.decoders.base import Decoder, RecurrentDecoder
from captioner.models.decoders.lstm import LSTMDecoder
from captioner.models.decoders.luong import LuongDecoder
from captioner.models.decoders.show_and_tell import ShowAndTell
from captioner.models.decoders.show_attend_tell import ShowAttendTell
from captioner.models.decoders.transformer import TransformerDecoder
from captioner.models.decoders.up_down import UpDown

__all__ = [
    "AdaptiveDecoder",
    "Decoder",
    "LSTMDecoder",
    "LuongDecoder",
    "RecurrentDecoder",
    "ShowAndTell",
    "ShowAttendTell",
    "TransformerDecoder",
    "UpDown",
]
