"""Show, Attend and Tell as tutorials write it: the opponent.

Readable, batched, and right: with the same weights it gives the same losses, gradients, weights of attention and
captions as `captioner.models.ShowAttendTell`, to rounding (tests/benchmarks/test_textbook.py). It spends nothing on
padding words either: captions are sorted by length, and each step computes the rows that still have words. What it
does is to treat every caption, and every beam, as a row of its own, and every step by itself. R rows (captions of a
batch, 160 of 32 images), L locations (196), D (2048), H = A = E = 512, T steps, V words (10,000), K beams, N real
words (11.8 a caption). These are all its repetitions, and their price:

1. An image is encoded once for each of its captions: five times the CNN's work.
2. Its annotation vectors are copied for each caption, and once more when the rows are sorted:
   2 R L D numbers, 514 MB in float32, where the images have 51 MB.
3. They are projected to keys anew at every step: 2 L D A = 411 MFLOP for each word forward, and as much backward for
   the matrix's gradient: nine tenths of its arithmetic. Once an image would do: 59 times less.
4. A step's keys, their sums with the query and their tanh, 3 R L A numbers, go to memory, and the last of them are kept
   for the backward pass: 193 MB at a full step, and 0.4 MB kept for each word.
5. The weighted mean is a product and a sum: R L D numbers written and read again at every step, and once more
   backward. A batched matrix product in its place would take a sixth off the textbook's training step.
6. A step's input is [word; context], so the words' share of the gates' product, and the recurrent one, are
   small products at each step.
7. Logits come step by step, are copied into a padded (R, T, V) tensor, and packed again for the loss. Each of
   the T copies copies the gradient of the whole tensor in the backward pass: T R T V numbers.
8. In search, an image's annotation vectors are expanded to its K beams, and keys are projected for each beam at every
   step: K T times 411 MFLOP a photo, where once would do.
9. Photos are encoded and captioned one at a time: every matrix is read from memory for each step of each photo, and
   products of K rows leave a processor idle.
"""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence

from captioner.decoding import Rules
from captioner.models import AdditiveAttention, GridEncoder, ShowAttendTell


class TextbookAttention(nn.Module):
    """Additive attention of one query per row.

    Args:
        feature_dim: D.
        hidden_dim: H.
        attention_dim: A.
    """

    def __init__(self, feature_dim: int, hidden_dim: int, attention_dim: int) -> None:
        super().__init__()
        self.key = nn.Linear(feature_dim, attention_dim)
        self.query = nn.Linear(hidden_dim, attention_dim, bias=False)
        self.energy = nn.Linear(attention_dim, 1, bias=False)

    def forward(self, features: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Features (R, L, D) and hidden states (R, H) to contexts (R, D) and weights (R, L)."""
        keys = self.key(features)  # (R, L, A), anew at every step
        query = self.query(hidden)  # (R, A)
        scores = self.energy(torch.tanh(keys + query.unsqueeze(1))).squeeze(2)  # (R, L)
        alpha = scores.softmax(dim=1)
        context = (features * alpha.unsqueeze(2)).sum(dim=1)  # (R, D)
        return context, alpha


class Predicted(NamedTuple):
    """Teacher forcing of R captions, sorted by length, longest first.

    Attributes:
        logits: (R, T, V), 0 where a caption has ended.
        targets: (R, T) the words to predict.
        lengths: R lengths, end word included.
        alphas: (R, T, L), 0 where a caption has ended.
        order: (R,) which of the rows given each is.
    """

    logits: Tensor
    targets: Tensor
    lengths: list[int]
    alphas: Tensor
    order: Tensor


class TextbookDecoder(nn.Module):
    """The LSTM with attention, a row for each caption. It has no dropout: the comparison has none.

    Args:
        feature_dim: D.
        vocab_size: V.
        embed_dim: E.
        hidden_dim: H.
        attention_dim: A.
        gate: "scalar", "vector" or "none".
        deep_output: whether the output layer sees word, hidden state and context, or the hidden state alone.
    """

    def __init__(
        self,
        feature_dim: int,
        vocab_size: int,
        embed_dim: int,
        hidden_dim: int,
        attention_dim: int,
        gate: str = "scalar",
        deep_output: bool = True,
    ) -> None:
        super().__init__()
        self.vocab_size = vocab_size
        self.attention = TextbookAttention(feature_dim, hidden_dim, attention_dim)
        self.embedding = nn.Embedding(vocab_size, embed_dim)
        self.cell = nn.LSTMCell(embed_dim + feature_dim, hidden_dim)
        self.init_hidden = nn.Linear(feature_dim, hidden_dim)
        self.init_cell = nn.Linear(feature_dim, hidden_dim)
        self.beta = None if gate == "none" else nn.Linear(hidden_dim, feature_dim if gate == "vector" else 1)
        self.output_hidden = nn.Linear(hidden_dim, embed_dim) if deep_output else None
        self.output_context = nn.Linear(feature_dim, embed_dim, bias=False) if deep_output else None
        self.output = nn.Linear(embed_dim if deep_output else hidden_dim, vocab_size)

    def start(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """The hidden state and the cell (R, H) before the first word."""
        mean = features.mean(dim=1)
        return torch.tanh(self.init_hidden(mean)), torch.tanh(self.init_cell(mean))

    def step(
        self, word: Tensor, hidden: Tensor, cell: Tensor, features: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """One word of each row: logits (R, V), hidden state and cell (R, H), weights (R, L)."""
        context, alpha = self.attention(features, hidden)
        if self.beta is not None:
            context = torch.sigmoid(self.beta(hidden)) * context
        hidden, cell = self.cell(torch.cat([word, context], dim=1), (hidden, cell))
        summary = hidden
        if self.output_hidden is not None and self.output_context is not None:
            summary = torch.tanh(word + self.output_hidden(hidden) + self.output_context(context))
        return self.output(summary), hidden, cell, alpha

    def forward(self, features: Tensor, captions: Tensor, lengths: Tensor) -> Predicted:
        """Teacher forcing.

        Args:
            features: (R, L, D), each caption's own.
            captions: (R, T + 1) begin word, words, end word, padding.
            lengths: (R,) words to predict, end word included, at least 1; in the host's memory.
        """
        lengths, order = lengths.sort(descending=True)
        order = order.to(features.device)
        features, captions = features[order], captions[order]
        steps = lengths.tolist()
        words = self.embedding(captions)  # (R, T + 1, E)
        hidden, cell = self.start(features)
        logits = torch.zeros(len(captions), steps[0], self.vocab_size, device=features.device)
        alphas = torch.zeros(len(captions), steps[0], features.shape[1], device=features.device)
        if features.dtype == torch.float64:
            logits, alphas = logits.double(), alphas.double()
        for t in range(steps[0]):
            rows = sum(length > t for length in steps)  # those that still have words
            predicted, hidden, cell, alpha = self.step(words[:rows, t], hidden[:rows], cell[:rows], features[:rows])
            logits[:rows, t] = predicted.to(logits.dtype)
            alphas[:rows, t] = alpha.to(alphas.dtype)
        return Predicted(logits, captions[:, 1 : steps[0] + 1], steps, alphas, order)


def caption_loss(predicted: Predicted, strength: float = 1.0) -> Tensor:
    """The mean cross-entropy of a word, plus the doubly stochastic term, a mean over captions and locations.

    This is `captioner.losses.CaptionLoss` with its scale "mean".
    """
    logits = pack_padded_sequence(predicted.logits, predicted.lengths, batch_first=True).data  # (N, V)
    targets = pack_padded_sequence(predicted.targets, predicted.lengths, batch_first=True).data  # (N,)
    attended = predicted.alphas.sum(dim=1)  # (R, L)
    return functional.cross_entropy(logits, targets) + strength * ((1 - attended) ** 2).mean()


class Found(NamedTuple):
    """A caption that beam search found.

    Attributes:
        words: its words.
        score: log-probability over length to the power of the penalty.
        alphas: (T, L) where it looked for each word, the end word's included.
    """

    words: list[int]
    score: float
    alphas: Tensor


@torch.no_grad()
def search(
    decoder: TextbookDecoder, features: Tensor, rules: Rules, beam_size: int = 5, length_penalty: float = 0.7
) -> Found:
    """Beam search over one image, as `captioner.decoding.beam_search` defines it.

    Args:
        decoder: the decoder.
        features: (1, L, D) of the image.
        rules: special words and lengths; further constraints are not known here.
        beam_size: K.
        length_penalty: see `captioner.decoding.beam_search`.
    """
    hidden, cell = decoder.start(features)
    prefixes: list[list[int]] = [[rules.bos_id]]
    looks = features.new_zeros(1, 0, features.shape[1])  # (K, t, L) carried along with the beams
    log_probs = features.new_zeros(1)
    finished: list[Found] = []
    for t in range(rules.max_length + 1):
        expanded = features.expand(len(prefixes), -1, -1)  # (K, L, D)
        last = torch.tensor([prefix[-1] for prefix in prefixes], device=features.device)
        logits, hidden, cell, alpha = decoder.step(decoder.embedding(last), hidden, cell, expanded)
        scores = functional.log_softmax(logits, dim=1)
        scores[:, list(rules.never)] = -torch.inf
        if t < rules.min_length:
            scores[:, rules.eos_id] = -torch.inf
        scores = (log_probs.unsqueeze(1) + scores).view(-1)
        best, index = scores.topk(min(2 * beam_size, len(scores)))
        looks = torch.cat([looks, alpha.unsqueeze(1)], dim=1)  # (K, t + 1, L)

        live: list[tuple[float, int, int]] = []
        for rank, (log_prob, place) in enumerate(zip(best.tolist(), index.tolist(), strict=True)):
            beam, word = divmod(place, decoder.vocab_size)
            if log_prob == -torch.inf:
                continue
            if word != rules.eos_id:
                live.append((log_prob, beam, word))
            elif rank < beam_size:
                score = log_prob / (t + 1) ** length_penalty
                finished.append(Found(prefixes[beam][1:], score, looks[beam]))
        best_finished = max((found.score for found in finished), default=-torch.inf)
        if t == rules.max_length or not live or live[0][0] / (rules.max_length + 1) ** length_penalty <= best_finished:
            break
        live = live[:beam_size]
        beams = torch.tensor([beam for _, beam, _ in live], device=features.device)
        prefixes = [[*prefixes[beam], word] for _, beam, word in live]
        log_probs = torch.tensor([log_prob for log_prob, _, _ in live], device=features.device, dtype=features.dtype)
        hidden, cell, looks = hidden[beams], cell[beams], looks[beams]
    if finished:
        return max(finished, key=lambda found: found.score)
    length = max(1, len(prefixes[0]) - 1)
    return Found(prefixes[0][1:], float(log_probs[0]) / length**length_penalty, looks[0, :length])


class TextbookEncoder(nn.Module):
    """A frozen CNN over one image per row, in PyTorch's usual order of numbers (NCHW).

    Args:
        network: pixels (R, 3, S, S) to feature maps (R, D, h, w).
        mean, std: (3, 1, 1) of pixels from 0 to 255.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.network = network.eval()
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, pixels: Tensor) -> Tensor:
        """Annotation vectors (R, L, D) of uint8 pixels (R, 3, S, S)."""
        maps = self.network((pixels.float() - self.mean) / self.std)
        return maps.permute(0, 2, 3, 1).flatten(1, 2)


def textbook_of(decoder: ShowAttendTell) -> TextbookDecoder:
    """The textbook's decoder with the weights of ours.

    Raises:
        ValueError: ours has an option that the textbook lacks.
    """
    attention = decoder.attention
    if not isinstance(attention, AdditiveAttention) or not attention.bias:
        raise ValueError("the textbook scores by additive attention with a bias, and by nothing else")
    if decoder.norm is not None or decoder.projection is not None or decoder.tie_embeddings or decoder.dropout:
        raise ValueError("the textbook has no LayerNorm, no projection, no tied embeddings and no dropout")
    if decoder.deep_output and not (decoder.output_tanh and decoder.gated_output):
        raise ValueError("the textbook's deep output has tanh and the gated context")
    book = TextbookDecoder(
        decoder.feature_dim,
        decoder.vocab_size,
        decoder.embed_dim,
        decoder.hidden_dim,
        attention.attention_dim,
        decoder.gate,
        decoder.deep_output,
    ).to(next(decoder.parameters()))
    book.load_state_dict(textbook_weights(dict(decoder.named_parameters()), decoder.feature_dim))
    return book


@torch.no_grad()
def textbook_weights(ours: dict[str, Tensor], feature_dim: int) -> dict[str, Tensor]:
    """Ours by the textbook's names; gradients go the same way as weights.

    Args:
        ours: tensors by the names of our decoder's parameters.
        feature_dim: D.
    """
    theirs = dict(ours)
    word, bias = theirs.pop("word_gates.weight"), theirs.pop("word_gates.bias")  # (4H, E), (4H,)
    recurrent = theirs.pop("recurrent_gates.weight")  # (4H, D + H)
    theirs["cell.weight_ih"] = torch.cat([word, recurrent[:, :feature_dim]], dim=1)
    theirs["cell.weight_hh"] = recurrent[:, feature_dim:]
    theirs["cell.bias_ih"], theirs["cell.bias_hh"] = bias, torch.zeros_like(bias)
    return theirs


def textbook_encoder_of(encoder: GridEncoder) -> TextbookEncoder:
    """The textbook's encoder with the network of ours."""
    network = copy.deepcopy(encoder.network).to(memory_format=torch.contiguous_format)
    mean, std = (torch.tensor(values).view(3, 1, 1) * 255 for values in (encoder.mean, encoder.std))
    return TextbookEncoder(network, mean, std)
