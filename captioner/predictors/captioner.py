"""`Captioner`: photos in; captions and where the model looked for every word, out."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Literal, cast, get_args

import torch
from torch import Tensor

from captioner.checkpoint import Bundle, load_model
from captioner.data.features.cache import FeatureCache
from captioner.data.features.regions import RegionFile
from captioner.data.images import ImageSource, ImageTransform
from captioner.data.sources.cached import CachedFeatures
from captioner.data.sources.regions import StoredRegions
from captioner.decoding import BeamSearch, Rules, Search
from captioner.devices import EMULATED, find_device, has_bf16
from captioner.predictors.caption import Alternative, Caption
from captioner.predictors.maps import head_names, of_segment, per_word
from captioner.predictors.reading import MAX_THREADS, T, prefetch
from captioner.predictors.wording import Wording, is_text, require_text
from captioner.types import AttentionMaps, InputError, Memory, Opened, Source, TeacherForced


class BrokenModelError(ValueError):
    """A model whose log-probabilities are not finite."""


SHIPPED_MODEL = Path(__file__).parents[1] / "assets" / "flickr8k.safetensors"
Precision = Literal["fp32", "bf16"]


class Captioner:
    """A model ready to caption.

    Args:
        bundle: the model with its vocabulary and preprocessing.
        device: "auto" (a GPU if there is one), or what `torch.device` takes.
        cache: the folder of a feature cache that holds the encoder's features of all photos to come, which are given as
            paths then; None runs the encoder.
        regions: the file or folder of region features that holds all photos to come, likewise.
        precision: "fp32", or "bf16" for matrix products in bfloat16 (by autocast), about twice as fast where the
            processor has units for them, and much slower elsewhere, as a warning says; captions may then differ where
            two are nearly as likely.
        name: what the model is called in errors: its file.

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
        name: str = "this model",
    ) -> None:
        self.name = name
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
        if precision == "bf16" and not has_bf16(self.device):
            warnings.warn(f"precision bf16: {EMULATED.format(device=self.device.type.upper())}", stacklevel=2)

    @property
    def reads_text(self) -> bool:
        """Whether it reads sentences, not photos."""
        return self.transform.reads == "sentences"

    def _find_source(self, cache: str | Path | None, regions: str | Path | None) -> Source:
        """Where what the model looks at comes from."""
        if cache is None and regions is None:
            return self.transform
        if self.transform.reads != "photos":
            raise ValueError(f"features are of photos, and this model reads {self.transform.reads}")
        transform = cast("ImageTransform", self.transform)
        if cache is not None:
            return CachedFeatures(FeatureCache.open(cache, self.model.encoder, transform), transform)
        assert regions is not None
        file = RegionFile(regions)
        file.require_for(self.model.encoder, transform)
        return StoredRegions(file, transform)

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
            images: paths, URLs, open files, bytes of image files, PIL images or arrays (H, W, 3), see `open_image`; or
                a single one. Sentences as they are.
            search: how to search; by default 5 beams with a length penalty of 0.7, see `BeamSearch`.
            wording: what captions must obey; by default 1 to 30 words.
            batch_size: photos that go through the model together.
            num_best: captions wanted per photo; the best comes first, the others in its `others`.
            maps: whether captions come with their maps, which cost one more pass over each.

        Returns:
            A caption per photo, in order.

        Raises:
            InputError: a photo cannot be read; see `stream` to go on with the others.
            BrokenModelError: the model's log-probabilities are not finite.
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

        def caption(photos: list[Opened]) -> list[Caption]:
            return self._caption_batch(photos, search, rules, num_best, maps)

        return self._stream(images, batch_size, caption)

    def _stream(
        self, images: Iterable[T], batch_size: int, caption: Callable[[list[Opened]], list[Caption]]
    ) -> Iterator[tuple[T, Caption | InputError]]:
        for batch in prefetch(images, self.read, batch_size, self._num_readers()):
            yield from self._results(batch, caption)

    def _num_readers(self) -> int:
        """Threads that read photos: as many as there are cores; on a CPU, as many as the model has been given."""
        cores = torch.get_num_threads() if self.device.type == "cpu" else os.cpu_count() or 1
        return min(MAX_THREADS, cores + 1)

    def _results(
        self, batch: list[tuple[T, Opened | InputError]], caption: Callable[[list[Opened]], list[Caption]]
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
            ValueError: the caption has no words, or is no text.
            BrokenModelError: the model's log-probabilities are not finite.
        """
        require_text("the caption", text)
        tokens = self.tokenizer.encode(text)
        if not tokens:
            raise ValueError(f"the caption {text!r} has no words")
        photo = self.read(image)
        with self.computing():
            memory = self._encode([photo])
            output, (log_prob,) = self._follow(memory, [[*tokens, self.tokenizer.eos_id]])
        self._require_finite([log_prob])
        return self._caption(self.tokenizer.align(text), log_prob, memory, output, 0, photo)

    @contextmanager
    def computing(self) -> Iterator[None]:
        """No gradients, and products in the wished-for number format."""
        half = torch.autocast(self.device.type, torch.bfloat16) if self.precision == "bf16" else nullcontext()
        with torch.inference_mode(), half:
            yield

    def read(self, image: ImageSource) -> Opened:
        """Open a photo, or take a sentence, and make it ready for the encoder."""
        if self.reads_text and isinstance(image, str) and not is_text(image):
            raise InputError(repr(image), "is no text, but bytes or half a character: write it in UTF-8")
        return self.source.open(image)

    def _encode(self, photos: Sequence[Opened]) -> Memory:
        """The memory of a batch; from page-locked memory its copy to a GPU runs beside the GPU's work."""
        source = self.source.stack([photo.tensor for photo in photos])
        if self.device.type == "cuda":
            source = source.map(Tensor.pin_memory) if isinstance(source, Memory) else source.pin_memory()
        return self.model.encode(source.to(self.device, non_blocking=True))

    def _caption_batch(
        self, photos: Sequence[Opened], search: Search, rules: Rules, num_best: int, maps: bool
    ) -> list[Caption]:
        end = self.tokenizer.eos_id
        with self.computing():
            memory = self._encode(photos)
            found = search(*self.model.decoder.begin(memory), rules, num_best)
            for hypotheses in found:  # a search may find nothing among what are no numbers
                self._require_finite([hypothesis.log_prob for hypothesis in hypotheses] or [math.nan])
            best = [hypotheses[0] for hypotheses in found]
            told = [[*caption.tokens, end] if caption.finished else caption.tokens for caption in best]
            output = self._follow(memory, told)[0] if maps else None
        captions = []
        for row, (photo, (first, *rest)) in enumerate(zip(photos, found, strict=True)):
            others = tuple(Alternative(self.tokenizer.decode(one.tokens), one.log_prob) for one in rest)
            spans = self.tokenizer.spans(first.tokens)
            captions.append(self._caption(spans, first.log_prob, memory, output, row, photo, others))
        return captions

    def _require_finite(self, log_probs: Iterable[float]) -> None:
        """Refuse log-probabilities that are not finite: such a caption means nothing.

        Raises:
            BrokenModelError: one is not finite.
        """
        for log_prob in log_probs:
            if not math.isfinite(log_prob):
                raise BrokenModelError(
                    f"{self.name}: gives a caption with the log-probability {log_prob}: its weights are damaged, or "
                    f"its numbers grow too large for {self.precision}"
                )

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
        photo: Opened,
        others: tuple[Alternative, ...] = (),
    ) -> Caption:
        """Put the result of one image, a row of a batch, together."""
        words = tuple(word for word, _ in spans)
        looks: list[AttentionMaps] = []
        if output is not None and output.alpha is not None:
            maps = AttentionMaps(words, per_word(output.alpha[row, 0], spans))  # alpha (T, L)
            if "heads" in output.extras:
                heads = per_word(output.extras["heads"][row, 0], spans)  # (T, N, L)
                maps = replace(maps, heads=heads, head_names=head_names(heads.shape[1], self.model.decoder.num_layers))
            if "sentinel" in output.extras:
                maps = replace(maps, sentinel=per_word(output.extras["sentinel"][row, 0], spans))  # (T,)
            start = 0
            for segment in memory.segments:
                where = slice(start, start + segment.length)
                looks.append(of_segment(maps, segment, where, memory.mask[row], row, photo))
                start += segment.length
        return Caption(self.tokenizer.join(words), words, log_prob, tuple(looks), others)


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
    path = SHIPPED_MODEL if path is None else path
    return Captioner(load_model(path, trust), device, cache, regions, precision, str(path))
