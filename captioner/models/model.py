"""The model: an encoder that looks and a decoder that tells."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, nn

from captioner.models.decoders import Decoder
from captioner.models.encoders import Encoder
from captioner.types import Memory, TeacherForced


class CaptionModel(nn.Module):
    """An encoder and a decoder that fit each other.

    Args:
        encoder: makes memories of images.
        decoder: makes words of memories.
    """

    def __init__(self, encoder: Encoder, decoder: Decoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder

    def encode(self, source: Tensor | Memory) -> Memory:
        """Make the prepared memory of B images.

        Args:
            source: what the encoder takes, (B, 3, S, S) uint8 pixels or (B, S) words of sentences; or its memory of
                them, from a feature cache or a file of regions: all go the same way from here on.
        """
        memory = source if isinstance(source, Memory) else self.encoder(source)
        dtype = next(self.decoder.parameters()).dtype
        return self.decoder.prepare(replace(memory, features=memory.features.to(dtype)))

    def forward(self, source: Tensor | Memory, tokens: Tensor, lengths: Tensor) -> TeacherForced:
        """Teacher forcing over B images with K captions each; see `Decoder.forward`."""
        return self.decoder(self.encode(source), tokens, lengths)
