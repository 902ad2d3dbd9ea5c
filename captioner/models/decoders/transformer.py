"""The transformer's decoder (Vaswani et al. 2017, arXiv 1706.03762), over any memory and with any attention to it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from captioner.models.attention import Attention, MultiHeadAttention
from captioner.models.attention.base import NOT_PREPARED
from captioner.models.decoders.base import Decoder, plan_steps
from captioner.types import Attended, Memory, Reading, State, TeacherForced
from captioner.types.limits import MOST_LAYERS, require_shares, require_sizes

POSITIONS = ("sinusoidal", "learned")


class TransformerDecoder(Decoder):
    """Layers of self-attention over the words so far, attention to the memory, and a feed-forward network.

    Layer normalisation comes before each of the three (pre-norm: Xiong et al. 2020, arXiv 2002.04745), and once more at
    the end. All words of given captions go through at once; in search the words' keys and values are kept in the state,
    so that step t costs O(t).

    Exported are all layers' heads, layer by layer (one per layer, where its attention has none), and as alpha their
    mean.

    Args:
        feature_dim: D, the size of an annotation vector; one layer with ReLU takes it to model_dim.
        vocab_size: V, how many words there are.
        attention: makes each layer's attention to the memory from (model_dim, model_dim); the paper: multi-head.
        model_dim: the size of all vectors inside (the paper: 512).
        num_layers: how many layers (the paper: 6; captioning does with 3, Cornia et al. 2020, arXiv 1912.08226).
        num_heads: heads of self-attention (the paper: 8); they share model_dim.
        feedforward_dim: the size inside the feed-forward network (the paper: 2,048).
        positions: "sinusoidal" as in the paper (section 3.5), or "learned".
        max_words: the most words that learned positions reach.
        tie_embeddings: the last layer's matrix is that of the word vectors, as in the paper (section 3.4).
        dropout: on word vectors, projected features, and what each of the three parts adds (the paper: 0.1).
        normalise_features: LayerNorm of the annotation vectors first.

    Raises:
        ValueError: sizes that do not fit, or unknown positions; and later, captions of more than max_words.
    """

    def __init__(
        self,
        feature_dim: int,
        vocab_size: int,
        attention: Callable[[int, int], Attention] = MultiHeadAttention,
        model_dim: int = 512,
        num_layers: int = 3,
        num_heads: int = 8,
        feedforward_dim: int = 2048,
        positions: Literal["sinusoidal", "learned"] = "sinusoidal",
        max_words: int = 128,
        tie_embeddings: bool = True,
        dropout: float = 0.1,
        normalise_features: bool = False,
    ) -> None:
        super().__init__()
        require_sizes(
            feature_dim=feature_dim,
            vocab_size=vocab_size,
            model_dim=model_dim,
            num_heads=num_heads,
            feedforward_dim=feedforward_dim,
            max_words=max_words,
        )
        require_sizes(MOST_LAYERS, num_layers=num_layers)
        require_shares(dropout=dropout)
        if positions not in POSITIONS:
            raise ValueError(f"positions {positions!r} is not one of {', '.join(POSITIONS)}")
        if model_dim % num_heads or model_dim % 2:
            raise ValueError(f"model_dim {model_dim} must be even and a multiple of num_heads {num_heads}")
        self.feature_dim = feature_dim
        self.vocab_size = vocab_size
        self.model_dim = model_dim
        self.num_layers = num_layers
        self.num_heads = num_heads
        self.feedforward_dim = feedforward_dim
        self.positions = positions
        self.max_words = max_words
        self.tie_embeddings = tie_embeddings
        self.dropout = dropout
        self.normalise_features = normalise_features

        self.norm = nn.LayerNorm(feature_dim) if normalise_features else None
        self.projection = nn.Linear(feature_dim, model_dim)
        self.embedding = nn.Embedding(vocab_size, model_dim)
        self.position = nn.Embedding(max_words, model_dim) if positions == "learned" else None
        layers = nn.ModuleList(
            Layer(attention(model_dim, model_dim), model_dim, num_heads, feedforward_dim, dropout)
            for _ in range(num_layers)
        )
        self.layers = cast("Sequence[Layer]", layers)  # the type of a ModuleList does not say of what
        self.final_norm = nn.LayerNorm(model_dim)
        self.output = nn.Linear(model_dim, vocab_size)
        self.drop = nn.Dropout(dropout)
        nn.init.normal_(self.embedding.weight, std=model_dim**-0.5)
        nn.init.zeros_(self.output.bias)
        if tie_embeddings:
            self.output.weight = self.embedding.weight

    @property
    def attention(self) -> Attention:
        """The first layer's attention to the memory; all layers' are of one kind."""
        return self.layers[0].look

    def prepare(self, memory: Memory) -> Memory:
        """See `Decoder.prepare`: keys and values of all layers lie side by side, and notes are (B, layers, ...)."""
        features = memory.features if self.norm is None else self.norm(memory.features)
        memory = replace(memory, features=self.drop(self.projection(features).relu()))
        prepared: list[Memory] = []
        for layer in self.layers:
            prepared.append(layer.look.prepare(memory))
            memory = replace(memory, notes=prepared[0].notes)  # what the first layer has drawn is drawn for all
        keys = [own.keys for own in prepared if own.keys is not None]
        values = [own.values for own in prepared if own.values is not None]
        return replace(
            prepared[0],
            keys=torch.cat(keys, dim=-1),
            values=torch.cat(values, dim=-1) if values else None,
            notes={name: torch.stack([own.notes[name] for own in prepared], dim=1) for name in prepared[0].notes},
        )

    def _memories(self, memory: Memory) -> list[Memory]:
        """The memory as each layer sees it (views).

        Raises:
            ValueError: the memory was not prepared.
        """
        if memory.keys is None:
            raise ValueError(NOT_PREPARED)
        keys = _split(memory.keys, self.num_layers)
        values = [None] * self.num_layers if memory.values is None else _split(memory.values, self.num_layers)
        return [
            replace(memory, keys=k, values=v, notes={name: note[:, layer] for name, note in memory.notes.items()})
            for layer, (k, v) in enumerate(zip(keys, values, strict=True))
        ]

    def init_state(self, memory: Memory, num_sequences: int) -> State:
        """See `Decoder.init_state`: no words yet; "past" is (B, K, t, 2 * model_dim * layers) once t were read."""
        features = memory.features
        past = features.new_zeros(len(features), num_sequences, 0, 2 * self.model_dim * self.num_layers)
        step = torch.zeros(len(features), num_sequences, dtype=torch.long, device=features.device)
        return {"past": past, "step": step}

    def read(self, tokens: Tensor, state: State, memory: Memory) -> Reading:
        """See `Decoder.read`."""
        hidden, past, seen = self._run(tokens[..., None], state["step"][..., None], state["past"], memory)
        extras = {name: extra[:, :, 0] for name, extra in seen.extras.items()}
        attended = Attended(seen.context[:, :, 0], None if seen.alpha is None else seen.alpha[:, :, 0], extras)
        return Reading(self.output(hidden[:, :, 0]), attended, {"past": past, "step": state["step"] + 1})

    def follow(self, memory: Memory, tokens: Tensor, lengths: Tensor) -> TeacherForced:
        """See `Decoder.follow`."""
        words = tokens[..., :-1]  # (B, K, T)
        number = torch.arange(words.shape[2], device=words.device)
        plan = plan_steps(lengths.cpu(), words.shape[2]).to(words.device)
        mask = plan.mask  # (B, K, T)
        state = self.init_state(memory, words.shape[1])
        hidden, _, attended = self._run(words, number.expand_as(words), state["past"], memory)
        extras = {  # a word that is not real looks nowhere
            name: extra * mask.view(*mask.shape, *[1] * (extra.dim() - 3)) for name, extra in attended.extras.items()
        }
        logits = self.output(hidden.flatten(0, 2).index_select(0, plan.places))  # (N, V)
        return TeacherForced(logits, mask, extras["heads"].mean(dim=-2), extras, memory.mask, plan.places)

    def _run(self, words: Tensor, numbers: Tensor, past: Tensor, memory: Memory) -> tuple[Tensor, Tensor, Attended]:
        """Read T more words of each sequence.

        Args:
            words: (B, K, T).
            numbers: (B, K, T) their places in their sequences, from 0.
            past: (B, K, t, ...) of the words before, see `init_state`; where there are any, T is 1.
            memory: the prepared memory.

        Returns:
            hidden (B, K, T, model_dim), the past with these words, and what was attended to, all (B, K, T, ...).
        """
        num_words = past.shape[2] + words.shape[2]
        if self.position is not None and num_words > self.max_words:
            raise ValueError(f"a caption of {num_words} words is longer than the learned positions: raise max_words")
        hidden = self.drop(self.embedding(words) * math.sqrt(self.model_dim) + self._position(numbers))
        pasts, looks = [], []
        before = _split(past, self.num_layers)
        for layer, own_past, own_memory in zip(self.layers, before, self._memories(memory), strict=True):
            hidden, own_past, attended = layer(hidden, numbers, own_past, own_memory)
            pasts.append(own_past)
            looks.append(attended)
        return self.final_norm(hidden), torch.cat(pasts, dim=-1), _together(looks)

    def _position(self, numbers: Tensor) -> Tensor:
        """Vectors (..., model_dim) of places (...)."""
        if self.position is None:
            return sinusoids(numbers, self.model_dim).to(self.embedding.weight.dtype)
        return self.position(numbers)


class Layer(nn.Module):
    """Self-attention, attention to the memory, feed-forward network; each adds to what was there.

    Args:
        look: attention to the memory, from queries of model_dim to annotation vectors of model_dim.
        model_dim: see `TransformerDecoder`, like all that follow.
        num_heads: heads of self-attention.
        feedforward_dim: the size inside the feed-forward network.
        dropout: on what each part adds.
    """

    def __init__(self, look: Attention, model_dim: int, num_heads: int, feedforward_dim: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norms = nn.ModuleList(nn.LayerNorm(model_dim) for _ in range(3))
        self.queries = nn.Linear(model_dim, model_dim)
        self.keys_values = nn.Linear(model_dim, 2 * model_dim)
        self.joined = nn.Linear(model_dim, model_dim)
        self.look = look
        self.feedforward = nn.Sequential(
            nn.Linear(model_dim, feedforward_dim),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(feedforward_dim, model_dim),
        )
        self.drop = nn.Dropout(dropout)

    def forward(self, hidden: Tensor, numbers: Tensor, past: Tensor, memory: Memory) -> tuple[Tensor, Tensor, Attended]:
        """One layer for T more words.

        Args:
            hidden: (B, K, T, model_dim).
            numbers: (B, K, T) the words' places.
            past: (B, K, t, 2 * model_dim) keys and values of the words before.
            memory: the memory as this layer sees it.

        Returns:
            hidden as it came, past with these words, and what was attended to, all (B, K, T, ...).
        """
        normed = self.norms[0](hidden)
        past = torch.cat((past, self.keys_values(normed).to(past.dtype)), dim=2)  # (B, K, t + T, 2M)
        hidden = hidden + self.drop(self._words_so_far(normed, past))
        query = self.norms[1](hidden).flatten(1, 2)  # (B, K * T, M): all words are queries of one copy of the memory
        flat = self.look(query, memory, numbers.flatten(1, 2))
        extras = {"heads": flat.alpha[:, :, None], **flat.extras}  # an attention without heads is one head
        shape = numbers.shape[1:]  # (K, T)
        attended = Attended(
            flat.context.unflatten(1, shape),
            flat.alpha.unflatten(1, shape),
            {name: extra.unflatten(1, shape) for name, extra in extras.items()},
        )
        hidden = hidden + self.drop(attended.context)
        return hidden + self.drop(self.feedforward(self.norms[2](hidden))), past, attended

    def _words_so_far(self, normed: Tensor, past: Tensor) -> Tensor:
        """Self-attention (B, K, T, M) of words to themselves and those before."""
        batch = normed.shape[:2]
        query = self._heads(self.queries(normed))  # (B * K, N, T, M / N)
        keys, values = (self._heads(part) for part in past.to(query.dtype).chunk(2, dim=-1))
        several = query.shape[2] > 1  # a single word may look at all of them
        seen = functional.scaled_dot_product_attention(query, keys, values, is_causal=several)
        return self.joined(seen.transpose(1, 2).flatten(2).unflatten(0, batch))

    def _heads(self, vectors: Tensor) -> Tensor:
        """(B, K, T, M) as (B * K, N, T, M / N)."""
        return vectors.flatten(0, 1).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


def _split(tensor: Tensor, num_layers: int) -> Sequence[Tensor]:
    """The layers' shares of the last dimension, which may be empty."""
    return tensor.unflatten(-1, (num_layers, tensor.shape[-1] // num_layers)).unbind(-2)


def _together(looks: Sequence[Attended]) -> Attended:
    """What all layers attended to: their heads side by side, and what is a number per word summed."""
    heads = torch.cat([look.extras["heads"] for look in looks], dim=-2)  # (B, K, T, N, L)
    extras = {
        name: torch.stack([look.extras[name] for look in looks]).sum(0) for name in looks[0].extras if name != "heads"
    }
    return Attended(looks[-1].context, heads.mean(dim=-2), {**extras, "heads": heads})


def sinusoids(numbers: Tensor, size: int) -> Tensor:
    """Sines and cosines of places (...), wavelengths from 2 pi to 10,000 * 2 pi (section 3.5); (..., size)."""
    index = torch.arange(0, size, 2, device=numbers.device) / size
    angles = numbers[..., None] * 10_000.0**-index  # (..., size / 2)
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(-2)
