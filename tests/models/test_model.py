"""The whole model: pixels or cached memories in; it learns its pictures by heart; parts may come from outside."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import captioner
from captioner.checkpoint import CheckpointError, load_model, save_model
from captioner.cli.main import main
from captioner.decoding import Rules, beam_search, greedy_search
from captioner.losses import CaptionLoss
from captioner.models import (
    AdaptiveDecoder,
    AdditiveAttention,
    Attention,
    CaptionModel,
    Decoder,
    Encoder,
    GridEncoder,
    LuongDecoder,
    RecurrentDecoder,
    ShowAndTell,
    ShowAttendTell,
    TransformerDecoder,
    UpDown,
)
from captioner.models.attention import MultiHeadAttention
from captioner.models.decoders.base import Readout
from captioner.types import Attended, Memory, State

VOCAB_SIZE = 12
PAD, BOS, EOS, UNK = range(4)
CAPTIONS = [[[4, 5, 6, 7, EOS], [8, EOS]], [[9, 10, 4, EOS], []]]  # two images, up to two captions


class Patches(Encoder):
    """Patches of 16 x 16 pixels, each through one layer."""

    def __init__(self, feature_dim: int = 16) -> None:
        super().__init__()
        self.feature_dim = feature_dim
        self.layer = nn.Conv2d(3, feature_dim, 16, stride=16)

    def forward(self, pixels: torch.Tensor) -> Memory:
        return Memory.from_grid(self.layer(pixels.to(self.layer.weight.dtype) / 255))


def two_images() -> torch.Tensor:
    """A picture that is rather red, and one that is rather blue."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(100, (2, 3, 64, 64), generator=generator)
    pixels[0, 0] += 150
    pixels[1, 2] += 150
    return pixels.to(torch.uint8)


def batch(captions=CAPTIONS) -> tuple[torch.Tensor, torch.Tensor]:
    tokens = torch.full((2, 2, 6), PAD)
    tokens[..., 0] = BOS
    for image, of_image in enumerate(captions):
        for sequence, words in enumerate(of_image):
            tokens[image, sequence, 1 : len(words) + 1] = torch.tensor(words, dtype=torch.long)
    return tokens, torch.tensor([[len(words) for words in of_image] for of_image in captions])


def build(encoder: Encoder, **options) -> CaptionModel:
    torch.manual_seed(0)
    attention = functools.partial(AdditiveAttention, attention_dim=16)
    decoder = ShowAttendTell(encoder.feature_dim, VOCAB_SIZE, attention, embed_dim=24, hidden_dim=24, **options)
    return CaptionModel(encoder, decoder)


def captions_of(model: CaptionModel, source, beam_size: int | None = None) -> list[list[int]]:
    """What the model says by itself, greedily or by a beam."""
    model.eval()
    with torch.no_grad():
        memory = model.encode(source)
        state = model.decoder.init_state(memory, 1)
        rules = Rules(BOS, EOS, never=(PAD, BOS, UNK), max_length=10)

        def step(tokens, state):
            return model.decoder.step(tokens, state, memory)

        if beam_size is None:
            return [hypothesis.tokens for hypothesis in greedy_search(step, state, rules)]
        return [found[0].tokens for found in beam_search(step, state, rules, beam_size=beam_size)]


@pytest.fixture(params=["a layer", "frozen CNN", "fine-tuned CNN"])
def encoder(request):
    torch.manual_seed(0)
    if request.param == "a layer":
        return Patches()
    stage = None if request.param == "frozen CNN" else "layer4"
    return GridEncoder("timm/test_resnet", "none", output_stride=16, trainable_from=stage)


TINY = {"embed_dim": 24, "hidden_dim": 24}
SHIPPED = {"gate": "vector", "tie_embeddings": True, "normalise_features": True, "project_dim": 20}
LEARNERS = {
    ShowAttendTell: {"attention": functools.partial(AdditiveAttention, attention_dim=16), **TINY, **SHIPPED},
    ShowAndTell: TINY,
    LuongDecoder: TINY,
    AdaptiveDecoder: {"attention": functools.partial(AdditiveAttention, attention_dim=16), **TINY},
    UpDown: {
        "attention": functools.partial(AdditiveAttention, attention_dim=16),
        "normalise_features": True,
        **TINY,
    },
    TransformerDecoder: {
        "attention": functools.partial(MultiHeadAttention, num_heads=2, attention_dim=16),
        "model_dim": 24,
        "num_layers": 2,
        "num_heads": 2,
        "feedforward_dim": 32,
    },
}


@pytest.mark.parametrize("cls", LEARNERS, ids=lambda cls: cls.__name__)
def test_two_images_are_learnt_word_for_word(cls: Callable[..., Decoder]):
    torch.manual_seed(0)
    encoder = Patches()
    model = CaptionModel(encoder, cls(encoder.feature_dim, VOCAB_SIZE, dropout=0.0, **LEARNERS[cls]))
    loss, pixels = CaptionLoss(), two_images()
    tokens, lengths = batch([[CAPTIONS[0][0], []], [CAPTIONS[1][0], []]])  # one caption each
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    model.train()
    for _ in range(200):
        optimizer.zero_grad()
        sums = loss(model(pixels, tokens, lengths), tokens[..., 1:])
        (sums.total / sums.count).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        if sums.nll < 0.1 * sums.words:
            break
    expected = [of_image[0][:-1] for of_image in CAPTIONS]
    assert captions_of(model, pixels) == expected
    assert captions_of(model, pixels.flip(0)) == expected[::-1]  # it is the image that says so
    assert captions_of(model, pixels, beam_size=3) == expected


@torch.no_grad()
def test_a_cached_memory_is_as_good_as_pixels(encoder):
    model, (tokens, lengths) = build(encoder).eval(), batch()
    pixels = two_images()
    memory = model.encoder(pixels)
    live, cached = model(pixels, tokens, lengths), model(memory, tokens, lengths)
    assert torch.equal(live.logits, cached.logits)
    assert torch.equal(live.alpha, cached.alpha)


@torch.no_grad()
def test_a_memory_in_half_precision_is_read_in_the_model_s_own(encoder):
    model, (tokens, lengths) = build(encoder).eval(), batch()
    memory = model.encoder(two_images())
    half = replace(memory, features=memory.features.half())
    rough = model(half, tokens, lengths).logits
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, model(memory, tokens, lengths).logits, atol=0.02, rtol=0.02)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_whole_model_changes_its_number_format(encoder, dtype):
    model, (tokens, lengths) = build(encoder).eval(), batch()
    expected = model(two_images(), tokens, lengths).logits
    found = model.to(dtype)(two_images(), tokens, lengths).logits
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), expected, atol=0.1 if dtype == torch.bfloat16 else 1e-3, rtol=0.1)


def test_encoding_prepares_and_keeps_the_grid(encoder):
    memory = build(encoder).encode(two_images())
    assert memory.grid == (4, 4)
    assert memory.keys.shape == (2, 16, 16)


def test_images_are_encoded_once_for_all_their_captions(monkeypatch):
    model, (tokens, lengths) = build(Patches()), batch()
    seen = []
    forward = Patches.forward
    monkeypatch.setattr(Patches, "forward", lambda self, pixels: seen.append(pixels.shape) or forward(self, pixels))
    model(two_images(), tokens, lengths)
    assert seen == [(2, 3, 64, 64)]


@torch.no_grad()
def test_words_are_conditioned_on_the_words_before(encoder):
    """Teacher forcing is causal: a later word changes nothing before it."""
    model, (tokens, lengths) = build(encoder).eval(), batch()
    other = tokens.clone()
    other[0, 0, 3] = 11
    first, second = model(two_images(), tokens, lengths), model(two_images(), other, lengths)
    changed = (first.logits != second.logits).any(dim=-1)
    assert first.mask.nonzero()[changed].tolist() == [[0, 0, 3], [0, 0, 4]]


def test_a_teacher_forced_caption_scores_what_its_words_do():
    model, (tokens, lengths) = build(Patches()).eval(), batch()
    output = model(two_images(), tokens, lengths)
    sums = CaptionLoss(0.0)(output, tokens[..., 1:])
    memory = model.encode(two_images())
    state, total = model.decoder.init_state(memory, 2), 0.0
    for step in range(5):
        logits, state = model.decoder.step(tokens[..., step], state, memory)
        nll = functional.cross_entropy(logits.transpose(1, 2), tokens[..., step + 1], reduction="none")
        total += nll[lengths > step].sum().item()
    assert sums.nll.item() == pytest.approx(total, rel=1e-5)


def test_frozen_says_whether_memories_may_be_cached(encoder):
    assert encoder.frozen == (not any(parameter.requires_grad for parameter in encoder.parameters()))
    encoder.requires_grad_(False)
    assert encoder.frozen


# ------------------------------------------------------------------------------------------ parts from outside

HERE = __name__.partition(".")[0]


class Cosine(Attention):
    """A scorer from outside the package: the cosine between a query and a key."""

    def __init__(self, feature_dim: int, query_dim: int, sharpness: float = 1.0) -> None:
        super().__init__(feature_dim, query_dim)
        self.sharpness = sharpness
        self.key = nn.Linear(feature_dim, query_dim)

    def project(self, features: Tensor) -> Tensor:
        return functional.normalize(self.key(features), dim=-1)

    def score(self, query: Tensor, keys: Tensor) -> Tensor:
        return self.sharpness * functional.normalize(query, dim=-1) @ keys.mT


class Recounter(RecurrentDecoder):
    """A decoder from outside the package: a GRU that reads words and looks afterwards."""

    def __init__(
        self, feature_dim: int, vocab_size: int, attention: Callable[[int, int], Attention], size: int = 8
    ) -> None:
        super().__init__()
        self.feature_dim = feature_dim
        self.vocab_size = vocab_size
        self.attention = attention(feature_dim, size)
        self.size = size
        self.embedding = nn.Embedding(vocab_size, size)
        self.cell = nn.GRUCell(size, size)
        self.output = nn.Linear(size + feature_dim, vocab_size)

    def prepare(self, memory: Memory) -> Memory:
        return self.attention.prepare(memory)

    def init_state(self, memory: Memory, num_sequences: int) -> State:
        hidden = memory.features.new_zeros(len(memory.features), num_sequences, self.size)
        return {"hidden": hidden, "step": hidden.new_zeros(hidden.shape[:2], dtype=torch.long)}

    def embed(self, tokens: Tensor) -> Tensor:
        return self.embedding(tokens)

    def drive(self, words: Tensor) -> Tensor:
        return words

    def advance(self, drive: Tensor, state: State, memory: Memory) -> tuple[Tensor, Attended, State]:
        hidden = self.cell(drive.flatten(0, 1), state["hidden"].flatten(0, 1)).view(drive.shape)
        return hidden, self.attention(hidden, memory, state["step"]), {"hidden": hidden}

    def predict(self, readout: Readout) -> Tensor:
        return self.output(torch.cat([readout.hidden, readout.context], dim=-1))


def test_parts_from_outside_work_by_their_class_paths_alone(tmp_path):
    """Trained by the command, decoding in validation, saved, loaded with trust."""
    scorer = {"class_path": f"{__name__}.Cosine", "init_args": {"sharpness": 3.0}}
    changes = {
        "run_dir": tmp_path / "run",
        "trainer.max_epochs": 1,
        "trainer.num_sanity_val_steps": 0,
        "trainer.enable_progress_bar": "false",
        "data.reader.init_args.root": tmp_path / "pictures",
        "data.reader.init_args.num_train": 2,
        "data.reader.init_args.num_dev": 2,
        "model.encoder": json.dumps({"class_path": f"{__name__}.Patches", "init_args": {"feature_dim": 12}}),
        "model.decoder": json.dumps({"class_path": f"{__name__}.Recounter", "init_args": {"attention": scorer}}),
    }
    config = Path(captioner.__file__).parents[1] / "configs" / "tiny.yaml"
    assert main(["train", "fit", "-c", str(config), *(f"--{name}={value}" for name, value in changes.items())]) == 0

    trained = load_model(tmp_path / "run" / "checkpoints" / "last.ckpt", trust=[HERE])
    path = tmp_path / "m.safetensors"
    save_model(trained, path, "float32")
    with pytest.raises(CheckpointError, match=rf"from outside this package; .*--trust {HERE}"):
        load_model(path)
    decoder = load_model(path, trust=[HERE]).model.decoder
    assert type(decoder) is Recounter
    assert type(decoder.attention) is Cosine
    assert decoder.attention.sharpness == 3.0
    found = [captions_of(model, two_images()) for model in (trained.model, load_model(path, trust=[HERE]).model)]
    assert found[0] == found[1]
