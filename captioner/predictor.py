"""`Captioner`: photos in; captions and where the model looked for every word, out."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from captioner.checkpoint import Bundle, load_model
from captioner.data.feature_cache import FeatureCache, stack_grids
from captioner.data.images import ImageError, ImageSource, open_image
from captioner.decoding import Rules, beam_search
from captioner.types import AttentionMaps, Memory

SHIPPED_MODEL = Path(__file__).parent / "assets" / "flickr8k.safetensors"
LENGTH_PENALTY = 0.7  # chosen on Flickr8k's dev split
T = TypeVar("T", bound=ImageSource)


@dataclass(frozen=True)
class Caption:
    """What a model says of one photo.

    Attributes:
        text: the caption.
        words: its words, one map each.
        log_prob: the model's natural log-probability of the caption (the end word included).
        maps: where it looked for each word.
    """

    text: str
    words: tuple[str, ...]
    log_prob: float
    maps: AttentionMaps


@dataclass(frozen=True)
class Photo:
    """A photo ready for the model, and where its grid lies in the original.

    Attributes:
        loaded: (3, S, S) uint8 pixels, or (h, w, D) features from a cache.
        size: (width, height) of the upright original.
        grid_box: see `AttentionMaps`.
    """

    loaded: Tensor
    size: tuple[int, int]
    grid_box: tuple[float, float, float, float]


class Captioner:
    """A model ready to caption.

    Args:
        bundle: the model with its vocabulary and preprocessing.
        device: "auto" (a GPU if there is one), or what `torch.device` takes.
        cache: the folder of a feature cache that holds the encoder's features of all photos to come, which are given as
            paths then; None runs the encoder.

    Raises:
        ValueError: there is no such device here.
        CacheError: the cache was made with another encoder, other weights or another transform.
    """

    def __init__(self, bundle: Bundle, device: str = "auto", cache: str | Path | None = None) -> None:
        self.model = bundle.model.eval()
        self.tokenizer = bundle.tokenizer
        self.transform = bundle.transform
        self.provenance = bundle.provenance
        self.cache = None if cache is None else FeatureCache.open(cache, self.model.encoder, self.transform)
        self.device = find_device(device)
        self.model.to(self.device)

    def caption(
        self,
        images: ImageSource | Iterable[ImageSource],
        beam_size: int = 5,
        batch_size: int = 16,
        length_penalty: float = LENGTH_PENALTY,
        min_length: int = 1,
        max_length: int = 30,
    ) -> list[Caption]:
        """Caption photos.

        Args:
            images: paths, PIL images, arrays (H, W, 3) or bytes of image files; or a single one.
            beam_size: prefixes that the search keeps; 1 is greedy search.
            batch_size: photos that go through the model together.
            length_penalty: see `beam_search`.
            min_length: of a caption, in words.
            max_length: of a caption, in words.

        Returns:
            A caption per photo, in order.

        Raises:
            ImageError: a photo cannot be read; see `stream` to go on with the others.
            ValueError: sizes or lengths that are not possible.
        """
        if isinstance(images, str | Path | bytes | Image.Image | np.ndarray):
            images = [images]
        results = self.stream(images, beam_size, batch_size, length_penalty, min_length, max_length)
        captions = []
        for _, result in results:
            if isinstance(result, ImageError):
                raise result
            captions.append(result)
        return captions

    def stream(
        self,
        images: Iterable[T],
        beam_size: int = 5,
        batch_size: int = 16,
        length_penalty: float = LENGTH_PENALTY,
        min_length: int = 1,
        max_length: int = 30,
    ) -> Iterator[tuple[T, Caption | ImageError]]:
        """Caption any number of photos, one batch in memory at a time; a broken one does not stop the others.

        Args:
            images: as for `caption`, lazily read.
            beam_size: as for `caption`, like all that follow.
            batch_size: photos that are in memory at a time, twice over: the next ones are read meanwhile.
            length_penalty: see `beam_search`.
            min_length: of a caption, in words.
            max_length: of a caption, in words.

        Yields:
            Every image as given, with its caption or the reason why it has none; in order.

        Raises:
            ValueError: sizes or lengths that are not possible.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}")
        rules = self._rules(min_length, max_length)
        for batch, photos in _prefetch(images, self.read, batch_size):
            good = [photo for photo in photos if not isinstance(photo, ImageError)]
            captions = iter(self._caption_batch(good, rules, beam_size, length_penalty) if good else ())
            for image, photo in zip(batch, photos, strict=True):
                yield image, photo if isinstance(photo, ImageError) else next(captions)

    @torch.inference_mode()
    def look(self, image: ImageSource, text: str) -> Caption:
        """Where the model looks for a caption that one supplies.

        Args:
            image: a photo.
            text: the caption; a word that the model does not know is read as the unknown word and keeps its spelling.

        Raises:
            ImageError: the photo cannot be read.
            ValueError: the caption has no words.
        """
        tokens = self.tokenizer.encode(text)
        if not tokens:
            raise ValueError(f"the caption {text!r} has no words")
        photo = self.read(image)
        memory = self._encode([photo])
        alpha, (log_prob,) = self._follow(memory, [[*tokens, self.tokenizer.eos_id]])
        return _caption(photo, self.tokenizer.align(text), log_prob, alpha[0])

    def read(self, image: ImageSource) -> Photo:
        """Open a photo and make it ready for the encoder."""
        opened = open_image(image)
        if self.cache is None:
            loaded = self.transform(opened)
        elif isinstance(image, str | Path):
            loaded = self.cache.load(image)
        else:
            raise TypeError(f"a feature cache knows photos by their files: give paths, not {type(image).__name__}")
        return Photo(loaded, opened.size, self.transform.grid_box(*opened.size))

    def _rules(self, min_length: int, max_length: int) -> Rules:
        special = self.tokenizer
        return Rules(special.bos_id, special.eos_id, special.never, min_length=min_length, max_length=max_length)

    def _encode(self, photos: Sequence[Photo]) -> Memory:
        loaded = [photo.loaded for photo in photos]
        source = torch.stack(loaded) if self.cache is None else stack_grids(loaded)
        return self.model.encode(source.to(self.device, non_blocking=True))

    @torch.inference_mode()
    def _caption_batch(
        self, photos: Sequence[Photo], rules: Rules, beam_size: int, length_penalty: float
    ) -> list[Caption]:
        decoder = self.model.decoder
        memory = self._encode(photos)
        found = beam_search(
            lambda tokens, state: decoder.step(tokens, state, memory),
            decoder.init_state(memory, 1),
            rules,
            beam_size=beam_size,
            length_penalty=length_penalty,
        )
        end = self.tokenizer.eos_id
        best = [hypotheses[0] for hypotheses in found]
        alpha, _ = self._follow(
            memory, [[*caption.tokens, end] if caption.finished else caption.tokens for caption in best]
        )
        return [
            _caption(photo, self.tokenizer.spans(caption.tokens), caption.log_prob, rows)
            for photo, caption, rows in zip(photos, best, alpha, strict=True)
        ]

    def _follow(self, memory: Memory, captions: Sequence[Sequence[int]]) -> tuple[np.ndarray, list[float]]:
        """One teacher-forced pass over a caption per image.

        Args:
            memory: the prepared memory of B images.
            captions: B lists of ids, the end word included where there is one.

        Returns:
            (B, T, h, w) weights, and the captions' log-probabilities.
        """
        special = self.tokenizer
        longest = max(1, *map(len, captions))
        rows = [[special.bos_id, *ids, *[special.pad_id] * (longest - len(ids))] for ids in captions]
        tokens = torch.tensor(rows, device=self.device)[:, None]  # (B, 1, T + 1)
        lengths = torch.tensor([[len(ids)] for ids in captions], device=self.device)  # (B, 1)
        output = self.model.decoder(memory, tokens, lengths)
        chosen = output.logits.float().log_softmax(-1).gather(1, tokens[..., 1:][output.mask][:, None])  # (N, 1)
        log_probs = torch.zeros(output.mask.shape, device=self.device).masked_scatter(output.mask, chosen[:, 0])
        alpha = output.alpha[:, 0].unflatten(-1, memory.grid)  # (B, T, h, w)
        return alpha.float().cpu().numpy(), log_probs.sum(dim=(1, 2)).tolist()


def _caption(photo: Photo, spans: Sequence[tuple[str, slice]], log_prob: float, alpha: np.ndarray) -> Caption:
    """Put a result together; the map of a word of several pieces is the mean of theirs."""
    words = tuple(word for word, _ in spans)
    per_word = [alpha[where].mean(axis=0) for _, where in spans]
    weights = np.stack(per_word) if per_word else np.zeros((0, *alpha.shape[1:]), np.float32)  # (T, h, w)
    maps = AttentionMaps(words, weights, photo.size, photo.grid_box)
    return Caption(" ".join(words), words, log_prob, maps)


def _prefetch(
    images: Iterable[T], read: Callable[[T], Photo], batch_size: int
) -> Iterator[tuple[list[T], list[Photo | ImageError]]]:
    """Read batches of photos in threads, one batch ahead of the model."""

    def attempt(image: T) -> Photo | ImageError:
        try:
            return read(image)
        except ImageError as error:
            return error

    source = iter(images)
    pool = ThreadPoolExecutor(min(8, (os.cpu_count() or 1) + 1))
    try:
        batch = list(islice(source, batch_size))
        reading = [pool.submit(attempt, image) for image in batch]
        while batch:
            photos = [future.result() for future in reading]
            ready, batch = batch, list(islice(source, batch_size))
            reading = [pool.submit(attempt, image) for image in batch]
            yield ready, photos
    finally:  # not waiting: a stream that is left half read is closed by the garbage collector, in whichever thread
        pool.shutdown(wait=False, cancel_futures=True)


def find_device(name: str = "auto") -> torch.device:
    """The device of this name; "auto" is a GPU where there is one.

    Raises:
        ValueError: there is no such device here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device {name!r} cannot be used here: {reason}") from error
    return device


def load(
    path: str | Path | None = None,
    device: str = "auto",
    trust: Sequence[str] = (),
    cache: str | Path | None = None,
) -> Captioner:
    """Load a model file, ready to caption.

    Args:
        path: a `.safetensors` file that `captioner export` wrote; by default the model that ships with the package.
        device: "auto" (a GPU where there is one), or what `torch.device` takes.
        trust: packages beside this one whose parts the model may use, see `load_model`.
        cache: a feature cache to read in place of running the encoder, see `Captioner`.

    Raises:
        CheckpointError: the file is no model, damaged or newer.
        ValueError: there is no such device here.
    """
    return Captioner(load_model(SHIPPED_MODEL if path is None else path, trust), device, cache)
