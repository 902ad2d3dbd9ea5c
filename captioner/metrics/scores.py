"""Captions against reference captions: BLEU, METEOR, ROUGE-L and CIDEr, from 0 to 100.

The definitions are those of COCO's caption evaluation (Chen et al. 2015, arXiv 1504.00325), computed by
pycocoevalcap. CIDEr is given times 100, as papers print it (113.5), and can pass 100.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from captioner.metrics.java import JavaError, find_java, java_command
from captioner.metrics.meteor import meteor, meteor_command
from captioner.metrics.tokenizers import BuiltinTokenizer, CaptionTokenizer, PTBTokenizer

Id = TypeVar("Id", bound=Hashable)

_log = logging.getLogger(__name__)

TOKENIZERS: dict[str, type[CaptionTokenizer]] = {"ptb": PTBTokenizer, "builtin": BuiltinTokenizer}
"""By the names that commands know."""

ALIKE = (
    "CIDEr is 0, whatever the captions are: it weighs words by how few images have them in their references, and here "
    "there is one image, or all have the same references; score more images"
)


@dataclass(frozen=True)
class Scores:
    """The scores of one set of captions, from 0 to 100, unrounded.

    Attributes:
        bleu: BLEU-1 to BLEU-4, of the corpus, with the closest reference length.
        cider: CIDEr-D times 100; document frequencies are those of the scored images' references.
        meteor: None where it was left out.
        rouge_l: None where it was left out.
        num_scored: images that were scored: those that the hypotheses hold.
        num_missing: images of the references that the hypotheses do not hold.
        tokenizer: the name of the tokenizer that made the words.

    Raises:
        ValueError: when a score is not a finite number.
    """

    bleu: tuple[float, float, float, float]
    cider: float
    meteor: float | None
    rouge_l: float | None
    num_scored: int
    num_missing: int
    tokenizer: str

    def __post_init__(self) -> None:
        for name, value in self.metrics().items():
            if value is not None and not math.isfinite(value):
                raise ValueError(f"{name} is {value}, which is no score; please report the captions that make it so")

    def metrics(self) -> dict[str, float | None]:
        """The scores by the names that papers use, in their order."""
        return {
            **{f"BLEU-{n}": value for n, value in enumerate(self.bleu, start=1)},
            "METEOR": self.meteor,
            "ROUGE-L": self.rouge_l,
            "CIDEr": self.cider,
        }

    def to_dict(self) -> dict[str, float | int | str | None]:
        """Everything, flat, for a JSON file."""
        return {
            **self.metrics(),
            "num_scored": self.num_scored,
            "num_missing": self.num_missing,
            "tokenizer": self.tokenizer,
        }


def find_tokenizer(name: str | None = None) -> CaptionTokenizer:
    """A tokenizer by its short name.

    Args:
        name: one of `TOKENIZERS`. By default the official one where Java starts, and else the built-in one; if there
            is a Java that does not answer, with one line in the log that says so.

    Raises:
        JavaError: when the official one is asked for and there is no Java that starts.
        ValueError: when there is none of that name.
    """
    if name is None:
        try:
            name = "builtin" if find_java() is None else "ptb"
        except JavaError as error:
            _log.warning("the words are the built-in tokenizer's: %s", error)
            name = "builtin"
    elif name == "ptb":
        java_command()
    elif name not in TOKENIZERS:
        raise ValueError(f"no tokenizer {name!r}; there are: {', '.join(TOKENIZERS)}")
    return TOKENIZERS[name]()


def score(
    references: Mapping[Id, Sequence[str]],
    hypotheses: Mapping[Id, str],
    tokenizer: CaptionTokenizer | None = None,
    require_meteor: bool = False,
) -> Scores:
    """Score captions as COCO's evaluation does, over the images that the hypotheses hold.

    With Java the scores are pycocoevalcap's own. Without Java, METEOR is left out, with one line in the log
    that says so, and the words are the built-in tokenizer's.

    Args:
        references: the reference captions of each image, at least one with a word for an image that is scored.
        hypotheses: one caption per image; an empty one counts as a caption without words.
        tokenizer: that of `find_tokenizer()`, when not given.
        require_meteor: whether it is an error if METEOR cannot be computed.

    Raises:
        ValueError: when there is nothing to score, or an image has no references.
        JavaError: when the PTB tokenizer fails, or METEOR where it is required.
    """
    if require_meteor:
        meteor_command()  # before any work
    tokenizer = tokenizer or find_tokenizer()
    words = _Words.of(references, hypotheses, tokenizer)
    if words.wordless:
        raise ValueError(
            f"no reference caption holds a word of {len(words.wordless)} of {len(hypotheses)} images: "
            f"{_some(words.wordless)}; give these references, or leave them out"
        )
    if words.are_alike:
        _log.warning(ALIKE)
    from pycocoevalcap.rouge.rouge import Rouge

    return Scores(
        bleu=_bleu(words),
        cider=_cider(words),
        meteor=_meteor(words) if require_meteor else _meteor_or_none(words),
        rouge_l=100 * float(Rouge().compute_score(words.references, words.hypotheses)[0]),
        num_scored=len(words.hypotheses),
        num_missing=len(references) - len(words.hypotheses),
        tokenizer=tokenizer.name,
    )


def quick_score(references: Mapping[Id, Sequence[str]], hypotheses: Mapping[Id, str]) -> Scores:
    """BLEU and CIDEr alone, with the built-in tokenizer: for the validation of every epoch.

    A thousand images with five references each take a second or two. Starts no process, prints nothing. An image whose
    references hold no word scores 0.

    Args:
        references: as in `score`.
        hypotheses: as in `score`.

    Raises:
        ValueError: when there is nothing to score, or an image has no references.
    """
    tokenizer = BuiltinTokenizer()
    words = _Words.of(references, hypotheses, tokenizer)
    if words.are_alike:
        warnings.warn(ALIKE, stacklevel=2)
    return Scores(
        bleu=_bleu(words),
        cider=_cider(words),
        meteor=None,
        rouge_l=None,
        num_scored=len(words.hypotheses),
        num_missing=len(references) - len(words.hypotheses),
        tokenizer=tokenizer.name,
    )


@dataclass(frozen=True)
class _Words:
    """Tokenised captions in the shape that pycocoevalcap's scorers take, by the images' running numbers.

    Attributes:
        references: the reference captions.
        hypotheses: the captions to score, one each.
        wordless: the ids of images whose references hold no word.
    """

    references: dict[int, list[str]]
    hypotheses: dict[int, list[str]]
    wordless: Sequence[Hashable]

    @property
    def are_alike(self) -> bool:
        """Whether all images have the same references: no word is of some and not of others, as CIDEr needs it."""
        return len(set(map(frozenset, self.references.values()))) == 1

    @classmethod
    def of(
        cls,
        references: Mapping[Id, Sequence[str]],
        hypotheses: Mapping[Id, str],
        tokenizer: CaptionTokenizer,
    ) -> _Words:
        """The words of the images that the hypotheses hold, in the order of the references."""
        _check_ids(references, hypotheses)
        ids = [image_id for image_id in references if image_id in hypotheses]
        flat = iter(tokenizer.tokenize([caption for i in ids for caption in references[i]]))
        tokenized = [[next(flat) for _ in references[i]] for i in ids]
        wordless = [i for i, captions in zip(ids, tokenized, strict=True) if not any(captions)]
        if len(wordless) == len(ids):
            raise ValueError("no reference caption holds a word: there is nothing to score against")
        captions = tokenizer.tokenize([hypotheses[i] for i in ids])
        return cls(dict(enumerate(tokenized)), {n: [caption] for n, caption in enumerate(captions)}, wordless)


def _check_ids(references: Mapping[Id, Sequence[str]], hypotheses: Mapping[Id, str]) -> None:
    if not hypotheses:
        raise ValueError("there are no captions to score")
    unknown = [image_id for image_id in hypotheses if image_id not in references]
    if unknown:
        message = (
            f"{len(unknown)} of {len(hypotheses)} captions are for images that have no references:"
            f" {_some(unknown)}; there are references of images like {_some(list(references))}"
        )
        raise ValueError(message)
    bare = [image_id for image_id in hypotheses if not references[image_id]]
    if bare:
        raise ValueError(f"{len(bare)} images have no reference captions: {_some(bare)}")


def _some(ids: Sequence[Hashable]) -> str:
    return ", ".join(map(repr, ids[:5])) + (", ..." if len(ids) > 5 else "") if ids else "(none)"


def _bleu(words: _Words) -> tuple[float, float, float, float]:
    from pycocoevalcap.bleu.bleu import Bleu

    one, two, three, four = Bleu(4).compute_score(words.references, words.hypotheses, verbose=0)[0]
    return 100 * one, 100 * two, 100 * three, 100 * four


def _cider(words: _Words) -> float:
    from pycocoevalcap.cider.cider import Cider

    return 100 * float(Cider().compute_score(words.references, words.hypotheses)[0])


def _meteor(words: _Words) -> float:
    hypotheses = [caption for (caption,) in words.hypotheses.values()]
    return 100 * meteor(list(words.references.values()), hypotheses)


def _meteor_or_none(words: _Words) -> float | None:
    try:
        return _meteor(words)
    except JavaError as error:
        _log.warning("METEOR is left out: %s", error)
        return None
