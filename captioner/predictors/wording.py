"""What captions must obey, in words."""

from __future__ import annotations

from dataclasses import dataclass

from captioner.decoding import Constraint, ForbiddenWords, NoBadEndings, NoRepeatedNgrams, RequiredWords, Rules
from captioner.tokenizer import Tokenizer


def is_text(text: str) -> bool:
    """Whether all characters are whole: bytes on a command line that are not UTF-8 come as halves of some."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def require_text(what: str, text: str) -> None:
    """Refuse what is no text, see `is_text`.

    Raises:
        ValueError: it is not text; the message says what it should have been.
    """
    if not is_text(text):
        raise ValueError(f"{what} {text!r} is no text, but bytes or half a character: write it in UTF-8")


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
        """Refuse a text in place of several, what is no text, and what is both required and forbidden."""
        for name in ("forbidden", "required", "bad_endings"):
            if isinstance(getattr(self, name), str):
                raise ValueError(f"{name}={getattr(self, name)!r} must be a tuple of texts: ({getattr(self, name)!r},)")
            for text in getattr(self, name):
                require_text(name, text)
        if self.no_repeat < 0:
            raise ValueError(f"no_repeat={self.no_repeat} must be 0 (words may come again) or more")
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
