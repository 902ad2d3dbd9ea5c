"""Captions to token ids and back, on the `tokenizers` library: whole words, byte pairs, or characters.

A builder (`WordLevel`, `BytePairs`, `Characters`) learns a vocabulary from training captions; what it gives is a
`Tokenizer`, whatever the builder. Text is lower-cased and, but for `Characters`, its punctuation dropped, as
captioning does; hyphens and apostrophes inside a word stay ("t-shirt", "man's").
"""

from __future__ import annotations

import json
import re
import unicodedata
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence

from tokenizers import Encoding, Regex, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as HFTokenizer

from captioner.types.limits import require_sizes

SPECIAL_WORDS = ("<pad>", "<bos>", "<eos>", "<unk>")
WORD = r"\w+(?:['’-]\w+)*"
CHARACTER = r"[\s\S]"
SUBWORD_PREFIX = "##"  # marks a piece that continues a word
HALVES = re.compile("[\ud800-\udfff]")  # half characters, which no tokenizer can read
UNCUT = re.compile(  # longer than words are in scripts without spaces: Han and Kana; Thai, Lao, Burmese, Khmer
    "[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]{6}|[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff]{16}"
)
FEW_WORDS = 1.5  # a caption's, on average: captions are not words but sentences without spaces, then
SAMPLE = 1000  # captions that are looked at for it


class Tokenizer:
    """Captions <-> token ids.

    Text that reads like a special word ("<eos>") is ordinary text: `encode` never gives padding, begin or end.

    Args:
        backend: a tokenizer of the library whose first four words are the special ones.

    Attributes:
        pad_id, bos_id, eos_id, unk_id: padding, begin, end and unknown word.
        never: the ids that no caption may hold (padding, begin, unknown).
    """

    pad_id, bos_id, eos_id, unk_id = range(4)
    never = (pad_id, bos_id, unk_id)

    def __init__(self, backend: HFTokenizer) -> None:
        specials = tuple(backend.id_to_token(i) for i in range(len(SPECIAL_WORDS)))
        if specials != SPECIAL_WORDS:
            raise ValueError(f"the first four words must be {SPECIAL_WORDS}, but are {specials}")
        backend.encode_special_tokens = True  # as text; not part of the JSON, hence `__reduce__`
        self.backend = backend

    def __reduce__(self) -> tuple:
        return Tokenizer.from_json, (self.to_json(),)

    @property
    def vocab_size(self) -> int:
        """How many ids there are, the four special ones included."""
        return self.backend.get_vocab_size()

    def encode(self, text: str) -> list[int]:
        """The ids of a caption's words, without begin and end words."""
        return self._encoding(text).ids

    def _encoding(self, text: str) -> Encoding:
        return self.backend.encode(_whole(text), add_special_tokens=False)

    def spans(self, ids: Sequence[int]) -> list[tuple[str, slice]]:
        """The words that ids spell, and which positions spell each: one per word, more for byte pairs.

        Special ids end the word before them and spell nothing, but for the unknown word.

        Raises:
            ValueError: an id that is not in the vocabulary.
        """
        spans: list[tuple[str, slice]] = []
        glue = False  # whether the token before can be continued
        for position, token_id in enumerate(ids):
            piece = self.backend.id_to_token(token_id)
            if piece is None:
                raise ValueError(f"token id {token_id} is not in the vocabulary of {self.vocab_size} words")
            if token_id in (self.pad_id, self.bos_id, self.eos_id):
                glue = False
            elif glue and piece.startswith(SUBWORD_PREFIX):
                word, where = spans[-1]
                spans[-1] = (word + piece.removeprefix(SUBWORD_PREFIX), slice(where.start, position + 1))
            else:
                spans.append((piece.removeprefix(SUBWORD_PREFIX), slice(position, position + 1)))
                glue = True
        return spans

    def words(self, ids: Sequence[int]) -> list[str]:
        """The words that ids spell."""
        return [word for word, _ in self.spans(ids)]

    def decode(self, ids: Sequence[int]) -> str:
        """The caption that ids spell."""
        return self.join(self.words(ids))

    def normalise(self, text: str) -> str:
        """A text as this vocabulary spells it: in lower case, without punctuation, say, and unknown words as such."""
        return self.decode(self.encode(text))

    def join(self, words: Iterable[str]) -> str:
        """The text that words make."""
        is_of_characters = isinstance(self.backend.decoder, decoders.Fuse)  # spaces are words of their own, then
        return ("" if is_of_characters else " ").join(words)

    def align(self, text: str) -> list[tuple[str, slice]]:
        """The words of a text, unknown ones too, and which of its ids each became.

        They are spelt as in the text (lower-cased, in Unicode's form NFKC), where `words` has "<unk>".
        """
        text = unicodedata.normalize("NFKC", text)  # as `encode` does, so that offsets count the same characters
        encoding = self._encoding(text)
        aligned: list[tuple[str, slice]] = []
        previous = None  # the index of the word before
        for position, (index, (start, end)) in enumerate(zip(encoding.word_ids, encoding.offsets, strict=True)):
            piece = text[start:end].lower()
            if index == previous:  # a further piece of the word before
                word, where = aligned[-1]
                aligned[-1] = (word + piece, slice(where.start, position + 1))
            else:
                aligned.append((piece, slice(position, position + 1)))
            previous = index
        return aligned

    def unknown_words(self, text: str) -> list[str]:
        """The words of a text that have no id of their own, as they are spelt there."""
        ids = self.encode(text)
        return [word for word, where in self.align(text) if self.unk_id in ids[where]]

    def to_json(self) -> str:
        """All that makes this tokenizer, as JSON."""
        return self.backend.to_str()

    @classmethod
    def from_json(cls, text: str) -> Tokenizer:
        """The tokenizer that `to_json` wrote.

        Raises:
            ValueError: the text is not a tokenizer, or not one of ours.
        """
        try:
            backend = HFTokenizer.from_str(text)
        except Exception as error:  # the library raises bare Exception
            raise ValueError(f"not a tokenizer: {error}") from error
        return cls(backend)


class TokenizerBuilder(ABC):
    """Learns a vocabulary from captions; a config chooses one by its class."""

    @abstractmethod
    def fit(self, captions: Iterable[str]) -> Tokenizer:
        """The tokenizer for these captions; the same captions give the same ids."""


class WordLevel(TokenizerBuilder):
    """One id per word, as Show, Attend and Tell has it.

    Args:
        min_count: words seen less often become the unknown word (5 in most captioning code).
        max_size: keep the most frequent ones alone, the four special words counted too (the paper: 10,000).
    """

    def __init__(self, min_count: int = 5, max_size: int | None = None) -> None:
        require_sizes(min_count=min_count)
        if max_size is not None:
            require_sizes(max_size=max_size)
        self.min_count = min_count
        self.max_size = max_size

    def fit(self, captions: Iterable[str]) -> Tokenizer:
        """See `TokenizerBuilder.fit`."""
        if self.max_size is not None and self.max_size <= len(SPECIAL_WORDS):
            raise ValueError(f"max_size {self.max_size} has no room for words beside {', '.join(SPECIAL_WORDS)}")
        backend = _plain(models.WordLevel(unk_token="<unk>"))
        captions = list(captions)
        _warn_of_sentences(backend, captions)
        trainer = trainers.WordLevelTrainer(
            vocab_size=2**31 if self.max_size is None else self.max_size,
            min_frequency=self.min_count,
            show_progress=False,
            special_tokens=list(SPECIAL_WORDS),
        )
        return _train(backend, trainer, captions)


class BytePairs(TokenizerBuilder):
    """Frequent words whole, rare ones in pieces (Sennrich et al. 2016, arXiv 1508.07909).

    Only characters that no caption has are unknown.

    Args:
        vocab_size: how many ids to learn, at most, the special words included. Two for each character are always
            there: where it begins a word, and where it continues one.
    """

    def __init__(self, vocab_size: int = 4000) -> None:
        require_sizes(vocab_size=vocab_size)
        self.vocab_size = vocab_size

    def fit(self, captions: Iterable[str]) -> Tokenizer:
        """See `TokenizerBuilder.fit`."""
        captions = list(map(_whole, captions))
        backend = _plain(models.BPE(unk_token="<unk>", continuing_subword_prefix=SUBWORD_PREFIX))
        characters = sorted(set("".join(_split(backend, captions))))
        # The library numbers single characters in the order of a hash table, another one each time, and breaks ties
        # between pairs by these numbers: named as special words beforehand, they are the same every time.
        singles = [*SPECIAL_WORDS, *characters, *(SUBWORD_PREFIX + character for character in characters)]
        if self.vocab_size < len(singles):
            raise ValueError(
                f"vocab_size {self.vocab_size} has no room for the {len(characters)} characters of the captions: "
                f"choose at least {len(singles)}"
            )
        trainer = trainers.BpeTrainer(
            vocab_size=self.vocab_size,
            min_frequency=2,
            continuing_subword_prefix=SUBWORD_PREFIX,
            show_progress=False,
            special_tokens=singles,
        )
        trained = json.loads(_train(backend, trainer, captions).to_json())
        del trained["added_tokens"][len(SPECIAL_WORDS) :]  # characters are no special words from here on
        return Tokenizer.from_json(json.dumps(trained))


class Characters(TokenizerBuilder):
    """One id per character, spaces and punctuation too: for dates, numbers, spelling.

    A "word" of the tokenizer is a character then, and `decode` gives a text back as it was, in lower case.
    """

    def fit(self, captions: Iterable[str]) -> Tokenizer:
        """See `TokenizerBuilder.fit`."""
        backend = _plain(models.WordLevel(unk_token="<unk>"))
        backend.pre_tokenizer = pre_tokenizers.Split(Regex(CHARACTER), behavior="isolated")
        backend.decoder = decoders.Fuse()
        trainer = trainers.WordLevelTrainer(
            vocab_size=2**31, min_frequency=1, show_progress=False, special_tokens=list(SPECIAL_WORDS)
        )
        return _train(backend, trainer, captions)


def _plain(model: models.Model) -> HFTokenizer:
    backend = HFTokenizer(model)
    backend.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(WORD), behavior="removed", invert=True)
    return backend


def _whole(text: str) -> str:
    """A text in which half characters, as of an emoji that was cut, are the sign for an unknown one."""
    return text if text.isascii() else HALVES.sub("\ufffd", text)


def _warn_of_sentences(backend: HFTokenizer, captions: Sequence[str]) -> None:
    """Warn where whole sentences would be words."""
    sample = [caption for caption in map(_whole, captions[:SAMPLE]) if caption.strip()]
    if not sample:
        return
    mean = sum(1 for _ in _split(backend, sample)) / len(sample)
    uncut = sum(UNCUT.search(caption) is not None for caption in sample)
    if 0 < mean < FEW_WORDS or uncut > len(sample) / 2:
        warnings.warn(
            f"the captions average {mean:.1f} words. In a language that is written without spaces (Chinese, Japanese, "
            "Thai) a whole sentence is one word of WordLevel: choose Characters or BytePairs as the vocabulary, or put "
            "spaces between the words",
            stacklevel=3,
        )


def _split(backend: HFTokenizer, captions: Iterable[str]) -> Iterator[str]:
    """The words of captions, as training sees them."""
    for caption in captions:
        for word, _ in backend.pre_tokenizer.pre_tokenize_str(backend.normalizer.normalize_str(caption)):
            yield word


def _train(backend: HFTokenizer, trainer: trainers.Trainer, captions: Iterable[str]) -> Tokenizer:
    backend.train_from_iterator(map(_whole, captions), trainer)
    tokenizer = Tokenizer(backend)
    if tokenizer.vocab_size == len(SPECIAL_WORDS):
        raise ValueError(
            "no word of the captions made it into the vocabulary: are there captions at all, "
            "and is min_count not too high for so few?"
        )
    return tokenizer
