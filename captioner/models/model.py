"""The model: an encoder that looks and a decoder that tells."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import NamedTuple

from torch import Tensor, nn

from captioner.models.decoders import Decoder
from captioner.models.encoders import Encoder
from captioner.types import Memory, TeacherForced


class ParameterGroup(NamedTuple):
    """Trained parameters of one kind.

    Attributes:
        parameters: the parameters.
        pretrained: whether they were trained before; if not, they are new.
        decayed: whether weight decay is for them: for the matrices of layers, not for biases, normalisation, embeddings
            (tied to the output layer or not) and whatever else is learnt by itself, where it does no good.
    """

    parameters: list[nn.Parameter]
    pretrained: bool
    decayed: bool

    @property
    def name(self) -> str:
        """As a log has it."""
        return ("pretrained" if self.pretrained else "new") + ("" if self.decayed else ", not decayed")


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

    def parameter_groups(self) -> list[ParameterGroup]:
        """What is trained, by kind, for an optimiser to treat differently; kinds that are empty are left out."""
        embeddings = {id(module.weight) for module in self.modules() if isinstance(module, nn.Embedding)}
        pretrained = set(map(id, self.encoder.pretrained()))
        groups = [ParameterGroup([], *kind) for kind in product((False, True), (True, False))]
        seen: set[int] = set()
        for name, parameter in (*self.decoder.named_parameters(), *self.encoder.named_parameters()):
            if not parameter.requires_grad or id(parameter) in seen:
                continue
            seen.add(id(parameter))
            is_matrix = parameter.dim() > 1 and name.rpartition(".")[2].startswith("weight")
            kind = (id(parameter) in pretrained, is_matrix and id(parameter) not in embeddings)
            next(group for group in groups if group[1:] == kind).parameters.append(parameter)
        return [group for group in groups if group.parameters]
