"""`Captioner`: photos in; captions and where the model looked for every word, out."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar, get_args

import numpy as np
import torch
from torch import Tensor

from captioner.checkpoint import Bundle, load_model
from captioner.data.batches import ImageFiles, Source
from captioner.data.feature_cache import CachedFeatures, FeatureCache
from captioner.data.images import ImageSource, InputError
from captioner.data.regions import RegionFile
from captioner.data.text import Sentences, TextTransform
from captioner.decoding import (
    BeamSearch,
    Constraint,
    ForbiddenWords,
    NoBadEndings,
    NoRepeatedNgrams,
    RequiredWords,
    Rules,
    Search,
)
from captioner.tokenizer import Tokenizer
from captioner.types import (
    AttentionMaps,
    CaptionedImage,
    GridMaps,
    Memory,
    PackedImage,
    Part,
    RegionMaps,
    TeacherForced,
    WordMaps,
)

MAX_THREADS = 32  # that read photos
SHIPPED_MODEL = Path(__file__).parent / "assets" / "flickr8k.safetensors"
Precision = Literal["fp32", "bf16"]
T = TypeVar("T", bound=ImageSource)


@dataclass(frozen=True)
class Wording:
    """What captions must obey, in words; `decoding.constraints` says how.

    With a vocabulary of byte pairs or characters these are its pieces: lengths count them, and a forbidden "man" is
    found in "man ##kind", too.

    Attributes:
        min_length: in words, the end word not counted.
        max_length: in words.
        no_repeat: no run of so many words comes twice in a caption; 0 allows it.
        forbidden: words, or several in a row, that no caption may hold.
        required: words, or several in a row, that every finished caption holds.
        bad_endings: words, or several in a row, that no finished caption ends in ("a", "with the").
    """

    min_length: int = 1
    max_length: int = 30
    no_repeat: int = 0
    forbidden: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    bad_endings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse a text in place of several, and what is both required and forbidden."""
        for name in ("forbidden", "required", "bad_endings"):
            if isinstance(getattr(self, name), str):
                raise ValueError(f"{name}={getattr(self, name)!r} must be a tuple of texts: ({getattr(self, name)!r},)")
        both = [(one, other) for one in self.required for other in self.forbidden if f" {other} " in f" {one} "]
        if both:
            raise ValueError("{!r} is required, and {!r} is forbidden".format(*both[0]))

    def rules(self, tokenizer: Tokenizer) -> Rules:
        """The same in a vocabulary's ids. What the vocabulary cannot say is forbidden already.

        Raises:
            ValueError: a required word that the vocabulary does not have, or lengths that are not possible.
        """
        unknown = [word for phrase in self.required for word in tokenizer.unknown_words(phrase)]
        if unknown:
            raise ValueError(f"the model cannot say {', '.join(map(repr, unknown))}: it is not in its vocabulary")
        constraints: list[Constraint] = []
        if self.no_repeat:
            constraints.append(NoRepeatedNgrams(self.no_repeat))
        for phrases, make in (
            (self.forbidden, ForbiddenWords),
            (self.required, RequiredWords),
            (self.bad_endings, NoBadEndings),
        ):
            sayable = [phrase for phrase in phrases if not tokenizer.unknown_words(phrase)]
            if sayable:
                constraints.append(make(tuple(tuple(tokenizer.encode(phrase)) for phrase in sayable)))
        return Rules(
            tokenizer.bos_id,
            tokenizer.eos_id,
            tokenizer.never,
            min_length=self.min_length,
            max_length=self.max_length,
            constraints=tuple(constraints),
        )


class Alternative(NamedTuple):
    """A caption that a search found beside the best.

    Attributes:
        text: the caption.
        log_prob: the model's natural log-probability of it.
    """

    text: str
    log_prob: float


@dataclass(frozen=True)
class Caption:
    """What a model says of one photo (or sentence).

    Attributes:
        text: the caption.
        words: its words.
        log_prob: the model's natural log-probability of the caption (the end word included).
        looks: where it looked for each word: maps for each part of its memory; none where it does not attend.
        others: what else the search found, best first, where more than one caption was asked for.
    """

    text: str
    words: tuple[str, ...]
    log_prob: float
    looks: tuple[AttentionMaps, ...] = ()
    others: tuple[Alternative, ...] = ()

    @property
    def maps(self) -> AttentionMaps:
        """Where it looked in the first part of its memory, which for most models is all of it.

        Raises:
            ValueError: the model does not attend, or no maps were asked for.
        """
        if not self.looks:
            raise ValueError("no maps: this model does not attend, or it was told to caption without (maps=False)")
        return self.looks[0]


@dataclass(frozen=True)
class Loaded:
    """A photo or a sentence ready for the model.

    Attributes:
        tensor: what the model's source stacks: pixels, features of a cache, regions of a file, words.
        size: (width, height) of the upright photo.
        view: (x0, y0, x1, y1) what the encoder sees of it, see `GridMaps.grid_box`.
        source_words: the words of a sentence.
    """

    tensor: Any
    size: tuple[int, int] = (0, 0)
    view: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    source_words: tuple[str, ...] = ()


class Captioner:
    """A model ready to caption.

    Args:
        bundle: the model with its vocabulary and preprocessing.
        device: "auto" (a GPU if there is one), or what `torch.device` takes.
        cache: the folder of a feature cache that holds the encoder's features of all photos to come, which are given as
            paths then; None runs the encoder.
        regions: the file or folder of region features that holds all photos to come, likewise.
        precision: "fp32", or "bf16" for matrix products in bfloat16 (by autocast), about twice as fast where the
            processor has them; captions may then differ where two are nearly as likely.

    Raises:
        ValueError: there is no such device or precision here, both a cache and regions are given, or these are not for
            this model.
        CacheError: the cache was made with another encoder, other weights or another transform.
    """

    def __init__(
        self,
        bundle: Bundle,
        device: str = "auto",
        cache: str | Path | None = None,
        regions: str | Path | None = None,
        precision: Precision = "fp32",
    ) -> None:
        if cache is not None and regions is not None:
            raise ValueError("features come from a cache or from a file of regions, not from both")
        if precision not in get_args(Precision):
            raise ValueError(f"precision must be {' or '.join(get_args(Precision))}, not {precision!r}")
        self.model = bundle.model.eval()
        self.tokenizer = bundle.tokenizer
        self.transform = bundle.transform
        self.provenance = bundle.provenance
        self.source = self._find_source(cache, regions)
        self.precision = precision
        self.device = find_device(device)
        self.model.to(self.device)

    @property
    def reads_text(self) -> bool:
        """Whether it reads sentences, not photos."""
        return isinstance(self.transform, TextTransform)

    def _find_source(self, cache: str | Path | None, regions: str | Path | None) -> Source:
        """Where what the model looks at comes from."""
        if isinstance(self.transform, TextTransform):
            return Sentences(self.transform)
        if regions is not None:
            file = RegionFile(regions)
            file.require_for(self.model.encoder, self.transform)
            return file
        if cache is not None:
            return CachedFeatures(FeatureCache.open(cache, self.model.encoder, self.transform))
        return ImageFiles(self.transform)

    def caption(
        self,
        images: ImageSource | Iterable[ImageSource],
        search: Search | None = None,
        wording: Wording | None = None,
        batch_size: int = 32,
        num_best: int = 1,
        maps: bool = True,
    ) -> list[Caption]:
        """Caption photos (or, with a model that reads sentences, sentences).

        Args:
            images: paths, PIL images, arrays (H, W, 3) or bytes of image files; or a single one. Sentences as they are.
            search: how to search; by default 5 beams with a length penalty of 0.7, see `BeamSearch`.
            wording: what captions must obey; by default 1 to 30 words.
            batch_size: photos that go through the model together.
            num_best: captions wanted per photo; the best comes first, the others in its `others`.
            maps: whether captions come with their maps, which cost one more pass over each.

        Returns:
            A caption per photo, in order.

        Raises:
            InputError: a photo cannot be read; see `stream` to go on with the others.
            ValueError: sizes, lengths or words that are not possible.
        """
        if isinstance(images, ImageSource):
            images = [images]
        captions = []
        for _, result in self.stream(images, search, wording, batch_size, num_best, maps):
            if isinstance(result, InputError):
                raise result
            captions.append(result)
        return captions

    def stream(
        self,
        images: Iterable[T],
        search: Search | None = None,
        wording: Wording | None = None,
        batch_size: int = 32,
        num_best: int = 1,
        maps: bool = True,
    ) -> Iterator[tuple[T, Caption | InputError]]:
        """Caption any number of photos, one batch in memory at a time; a broken one does not stop the others.

        Args:
            images: as for `caption`, lazily read.
            search: as for `caption`, like all that follow.
            wording: what captions must obey.
            batch_size: photos that are in memory at a time, twice over: the next ones are read meanwhile.
            num_best: captions wanted per photo.
            maps: whether captions come with their maps.

        Returns:
            Every image as given, with its caption or the reason why it has none; in order, as they are asked for.

        Raises:
            ValueError: sizes, lengths or words that are not possible.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}")
        search = search or BeamSearch()
        if num_best > search.max_captions:
            raise ValueError(f"num_best={num_best}: {search} gives {search.max_captions} captions at most")
        rules = (wording or Wording()).rules(self.tokenizer)

        def caption(photos: list[Loaded]) -> list[Caption]:
            return self._caption_batch(photos, search, rules, num_best, maps)

        return self._stream(images, batch_size, caption)

    def _stream(
        self, images: Iterable[T], batch_size: int, caption: Callable[[list[Loaded]], list[Caption]]
    ) -> Iterator[tuple[T, Caption | InputError]]:
        for batch in _prefetch(images, self.read, batch_size, self._num_readers()):
            yield from self._results(batch, caption)

    def _num_readers(self) -> int:
        """Threads that read photos: as many as there are cores; on a CPU, as many as the model has been given."""
        cores = torch.get_num_threads() if self.device.type == "cpu" else os.cpu_count() or 1
        return min(MAX_THREADS, cores + 1)

    def _results(
        self, batch: list[tuple[T, Loaded | InputError]], caption: Callable[[list[Loaded]], list[Caption]]
    ) -> Iterator[tuple[T, Caption | InputError]]:
        """The captions of a batch; what it holds ends with it."""
        good = [photo for _, photo in batch if not isinstance(photo, InputError)]
        captions = iter(caption(good) if good else ())
        for image, photo in batch:
            yield image, photo if isinstance(photo, InputError) else next(captions)

    def look(self, image: ImageSource, text: str) -> Caption:
        """Where the model looks for a caption that one supplies.

        Args:
            image: a photo (or a sentence).
            text: the caption; a word that the model does not know is read as the unknown word and keeps its spelling.

        Raises:
            InputError: the photo cannot be read.
            ValueError: the caption has no words.
        """
        tokens = self.tokenizer.encode(text)
        if not tokens:
            raise ValueError(f"the caption {text!r} has no words")
        photo = self.read(image)
        with self.computing():
            memory = self._encode([photo])
            output, (log_prob,) = self._follow(memory, [[*tokens, self.tokenizer.eos_id]])
        return self._caption(self.tokenizer.align(text), log_prob, memory, output, 0, photo)

    @contextmanager
    def computing(self) -> Iterator[None]:
        """No gradients, and products in the wished-for number format."""
        half = torch.autocast(self.device.type, torch.bfloat16) if self.precision == "bf16" else nullcontext()
        with torch.inference_mode(), half:
            yield

    def read(self, image: ImageSource) -> Loaded:
        """Open a photo, or take a sentence, and make it ready for the encoder."""
        if isinstance(self.transform, TextTransform):
            return Loaded(self.transform(str(image)), source_words=tuple(self.transform.words(str(image))))
        photo = self.transform.open(image)
        width, height = photo.size
        whole = (0.0, 0.0, float(width), float(height))
        view = whole if isinstance(self.source, RegionFile) else self.transform.grid_box(width, height)
        if isinstance(self.source, ImageFiles):
            return Loaded(self.transform(photo.pixels, photo.box), photo.size, view)
        if not isinstance(image, str | Path | PackedImage):
            raise TypeError(f"features are known by their photo's file: give paths, not {type(image).__name__}")
        path = image if isinstance(image, PackedImage) else Path(image)
        return Loaded(self.source.load(CaptionedImage(path.name, path), 0, 0), photo.size, view)

    def _encode(self, photos: Sequence[Loaded]) -> Memory:
        """The memory of a batch; from page-locked memory its copy to a GPU runs beside the GPU's work."""
        source = self.source.stack([photo.tensor for photo in photos])
        if self.device.type == "cuda":
            source = source.map(Tensor.pin_memory) if isinstance(source, Memory) else source.pin_memory()
        return self.model.encode(source.to(self.device, non_blocking=True))

    def _caption_batch(
        self, photos: Sequence[Loaded], search: Search, rules: Rules, num_best: int, maps: bool
    ) -> list[Caption]:
        decoder, end = self.model.decoder, self.tokenizer.eos_id
        with self.computing():
            memory = self._encode(photos)
            found = search(
                lambda tokens, state: decoder.step(tokens, state, memory),
                decoder.init_state(memory, 1),
                rules,
                num_best,
            )
            best = [hypotheses[0] for hypotheses in found]
            told = [[*caption.tokens, end] if caption.finished else caption.tokens for caption in best]
            output = self._follow(memory, told)[0] if maps else None
        captions = []
        for row, (photo, (first, *rest)) in enumerate(zip(photos, found, strict=True)):
            others = tuple(Alternative(self.tokenizer.decode(one.tokens), one.log_prob) for one in rest)
            spans = self.tokenizer.spans(first.tokens)
            captions.append(self._caption(spans, first.log_prob, memory, output, row, photo, others))
        return captions

    def _follow(self, memory: Memory, captions: Sequence[Sequence[int]]) -> tuple[TeacherForced, list[float]]:
        """One teacher-forced pass over a caption per image.

        Args:
            memory: the prepared memory of B images.
            captions: B lists of ids, the end word included where there is one.

        Returns:
            What the decoder said, K = 1, and the captions' log-probabilities.
        """
        special = self.tokenizer
        longest = max(1, *map(len, captions))
        rows = [[special.bos_id, *ids, *[special.pad_id] * (longest - len(ids))] for ids in captions]
        tokens = torch.tensor(rows, device=self.device)[:, None]  # (B, 1, T + 1)
        lengths = torch.tensor([[len(ids)] for ids in captions])  # (B, 1)
        output = self.model.decoder(memory, tokens, lengths)
        chosen = output.logits.float().log_softmax(-1).gather(1, output.of_words(tokens[..., 1:])[:, None])  # (N, 1)
        log_probs = torch.zeros(output.mask.shape, device=self.device).masked_scatter(output.mask, chosen[:, 0])
        return output, log_probs.sum(dim=(1, 2)).tolist()

    def _caption(
        self,
        spans: Sequence[tuple[str, slice]],
        log_prob: float,
        memory: Memory,
        output: TeacherForced | None,
        row: int,
        photo: Loaded,
        others: tuple[Alternative, ...] = (),
    ) -> Caption:
        """Put the result of one image, a row of a batch, together."""
        words = tuple(word for word, _ in spans)
        looks: list[AttentionMaps] = []
        if output is not None and output.alpha is not None:
            maps = AttentionMaps(words, _per_word(output.alpha[row, 0], spans))  # alpha (T, L)
            if "heads" in output.extras:
                heads = _per_word(output.extras["heads"][row, 0], spans)  # (T, N, L)
                maps = replace(maps, heads=heads, head_names=_head_names(heads.shape[1], self.model.decoder.num_layers))
            if "sentinel" in output.extras:
                maps = replace(maps, sentinel=_per_word(output.extras["sentinel"][row, 0], spans))  # (T,)
            start = 0
            for part in memory.parts:
                looks.append(_of_part(maps, part, slice(start, start + part.length), memory.mask[row], row, photo))
                start += part.length
        return Caption(self.tokenizer.join(words), words, log_prob, tuple(looks), others)


def _head_names(num_heads: int, num_layers: int) -> tuple[str, ...]:
    """Names of heads that come layer by layer."""
    each = num_heads // num_layers
    if num_layers == 1:
        return tuple(f"head {head}" for head in range(1, each + 1))
    return tuple(f"layer {layer}, head {head}" for layer in range(1, num_layers + 1) for head in range(1, each + 1))


def _per_word(values: Tensor, spans: Sequence[tuple[str, slice]]) -> np.ndarray:
    """One row for each word of what there is for each token (T', ...): the mean, where a word has several."""
    rows = values.float().cpu().numpy()
    return np.stack([rows[where].mean(axis=0) for _, where in spans]) if spans else rows[:0]


def _of_part(maps: AttentionMaps, part: Part, where: slice, mask: Tensor, row: int, photo: Loaded) -> AttentionMaps:
    """The maps of one part's real locations, with the place of each.

    Args:
        maps: weights of all locations.
        part: the part.
        where: its locations among all.
        mask: (L,) bool, which are real.
        row: of the image in its batch.
        photo: the photo, or the sentence.
    """
    real = mask[where].cpu().numpy()
    alpha = maps.alpha[:, where][:, real]
    heads = None if maps.heads is None else maps.heads[..., where][..., real]
    if part.grid is not None:
        if heads is not None:
            heads = heads.reshape(*heads.shape[:2], *part.grid)
        alpha = alpha.reshape(len(alpha), *part.grid)
        found: AttentionMaps = GridMaps(maps.words, alpha, photo.size, photo.view)
    elif part.boxes is not None:
        x0, y0, x1, y1 = photo.view
        corner, extent = np.array([x0, y0, x0, y0]), np.array([x1 - x0, y1 - y0, x1 - x0, y1 - y0])
        boxes = (corner + part.boxes[row].float().cpu().numpy()[real] * extent).astype(np.float32)
        scores = None if part.scores is None else part.scores[row].float().cpu().numpy()[real]
        found = RegionMaps(maps.words, alpha, photo.size, boxes, scores=scores)
    else:
        found = WordMaps(maps.words, alpha, photo.source_words)
    return replace(found, heads=heads, head_names=maps.head_names, sentinel=maps.sentinel)


def _prefetch(
    images: Iterable[T], read: Callable[[T], Loaded], batch_size: int, threads: int
) -> Iterator[list[tuple[T, Loaded | InputError]]]:
    """Read batches of photos in threads, one batch ahead of the model."""

    def attempt(image: T) -> Loaded | InputError:
        try:
            return read(image)
        except InputError as error:
            return error

    source = iter(images)
    pool = ThreadPoolExecutor(threads)  # Pillow decodes beside other threads
    reading: deque[tuple[T, Future[Loaded | InputError]]] = deque()

    def start(count: int) -> None:
        reading.extend((image, pool.submit(attempt, image)) for image in islice(source, count))

    try:
        start(batch_size)
        while reading:
            batch: list[tuple[T, Loaded | InputError]] = []
            while reading and len(batch) < batch_size:
                image, future = reading.popleft()
                batch.append((image, future.result()))
                start(1)  # at once, so that no thread waits for the slowest photo of a batch
            yield batch
            batch.clear()  # what was captioned is not held while the next ones are read
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
    regions: str | Path | None = None,
    precision: Precision = "fp32",
) -> Captioner:
    """Load a model file, ready to caption.

    Args:
        path: a `.safetensors` file that `captioner export` wrote; by default the model that ships with the package.
        device: "auto" (a GPU where there is one), or what `torch.device` takes.
        trust: packages beside this one whose parts the model may use, see `load_model`.
        cache: a feature cache to read in place of running the encoder, see `Captioner`.
        regions: a file of region features to read likewise.
        precision: "fp32", or "bf16" for speed, see `Captioner`.

    Raises:
        CheckpointError: the file is no model, damaged or newer.
        ValueError: there is no such device or precision here.
    """
    return Captioner(load_model(SHIPPED_MODEL if path is None else path, trust), device, cache, regions, precision)
