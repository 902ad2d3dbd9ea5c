"""Decoders: a memory in, words out."""

from captioner.models.decoders.base import Decoder, RecurrentDecoder
from captioner.models.decoders.show_attend_tell import ShowAttendTell

__all__ = ["Decoder", "RecurrentDecoder", "ShowAttendTell"]
