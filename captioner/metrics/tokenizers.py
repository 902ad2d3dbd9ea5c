"""Captions into words, as the COCO scores count them: lower case, clitics apart, no punctuation.

Scores differ by tokenizer, so every tokenizer has a name, and every score is stamped with it. There are two:
the official one, Stanford's PTB tokenizer in Java, and an imitation of it that needs no Java.
"""

from __future__ import annotations

import html
import re
import subprocess
import unicodedata
from collections.abc import Sequence
from typing import Protocol

from captioner.metrics.java import JavaError, first_message, java_command, pycocoevalcap_file

DROPPED = frozenset(
    ["''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", ".", "?", "!", ",", ":", "-", "--", "...", ";"]
)
"""Tokens that pycocoevalcap leaves out. Its tokens are in lower case, so brackets (`-lrb-`) do stay."""


class CaptionTokenizer(Protocol):
    """What the scores ask of a tokenizer.

    Attributes:
        name: what the scores are stamped with.
    """

    name: str

    def tokenize(self, captions: Sequence[str]) -> list[str]:
        """Each caption as its words with one space between them, in the order given."""


class PTBTokenizer:
    """The official tokenizer: Stanford CoreNLP 3.4.1, by the jar and the options of pycocoevalcap.

    The words are those of pycocoevalcap's own class, which we do not call: it writes a temporary file into
    the installed package and loses count of the captions where one holds an unusual line break.
    """

    name = "PTB (Stanford CoreNLP 3.4.1, as in pycocoevalcap)"

    def tokenize(self, captions: Sequence[str]) -> list[str]:
        """Each caption as its words with one space between them, in the order given.

        Raises:
            JavaError: when there is no Java or the program fails.
        """
        if not captions:
            return []
        jar = pycocoevalcap_file("tokenizer", "stanford-corenlp-3.4.1.jar")
        command = java_command("-cp", str(jar), "edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase")
        lines = "\n".join(_on_one_line(unicodedata.normalize("NFC", caption)) for caption in captions)
        answer = subprocess.run(command, input=lines.encode("utf-8", "replace"), capture_output=True)
        tokenized = answer.stdout.decode("utf-8", "replace").split("\n")
        if answer.returncode != 0 or len(tokenized) != len(captions):
            raise JavaError(
                f"the PTB tokenizer gave {len(tokenized)} lines for {len(captions)} captions"
                f" (exit status {answer.returncode}): {first_message(answer.stderr)}"
            )
        return [_without_punctuation(line.rstrip().split(" ")) for line in tokenized]


class BuiltinTokenizer:
    """An imitation of the PTB tokenizer by one regular expression: no Java, some 30 microseconds a caption.

    It was fitted to how the PTB tokenizer cuts the 25,014 captions of COCO's val2017 and the 35,000 of
    Flickr8k's training and development images, and cuts all of these the same. It differs on rarities that
    they do not hold: "C++", sums in euros, emoji (which the PTB tokenizer drops), some slang.
    """

    name = "built-in (PTB-like)"

    def tokenize(self, captions: Sequence[str]) -> list[str]:
        """Each caption as its words with one space between them, in the order given."""
        return [_ptb_like(caption) for caption in captions]


def _on_one_line(caption: str) -> str:
    return " ".join(caption.splitlines())  # splitlines knows \r, \x85, \u2028 and the other line breaks


def _without_punctuation(tokens: Sequence[str]) -> str:
    return " ".join(token for token in tokens if token not in DROPPED)


_RESPELLED = str.maketrans(
    {
        '"': "''",
        "‘": "`",
        "“": "``",
        "”": "''",
        "«": "``",
        "»": "''",
        "…": "...",
        "–": " -- ",
        "—": " -- ",
        "½": "1/2",
        "¼": "1/4",
        "¾": "3/4",
        "\xad": "",  # a hyphen that is seen at the end of a line alone
    }
)

_BRACKETS = str.maketrans({"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"})
_VARIATIONS = frozenset(map(chr, range(0xFE00, 0xFE10)))  # whether a sign is drawn in colours
_ABBREVIATIONS = """
    adm|ala|apr|ariz|assn|aug|ave|bldg|blvd|bros|calif|capt|co|col|colo|comdr|conn|
    corp|cpl|dak|dec|dept|dr|drs|esq|est|etc|feb|fla|fri|ft|ga|gen|gov|hon|inc|ind|
    jan|jr|jul|jun|kan|kans|ky|lt|ltd|maj|md|mfg|mich|minn|mo|mon|mont|mr|mrs|ms|
    messrs|mt|neb|nev|nov|oct|okla|penn|pfc|pres|prof|pvt|rd|rep|reps|rev|sen|sens|
    sep|sept|sgt|spc|sr|st|supt|tenn|thu|thurs|tue|tues|univ|v|va|vs|vt|wed|wis|wyo|mme
"""  # laid out for re.VERBOSE

_MARK = "\ua7ff"  # stands for any combining mark: a letter that nobody writes
_LETTER = rf"[^\W\d_{_MARK}]"
_CLITICS = r"(?:s|m|d|re|ve|ll)(?![a-z0-9_])"
_PLAIN = rf"[^\W_{_MARK}]"  # letters and digits without marks

_TOKEN = re.compile(
    rf"""
      can(?=not\b) | (?:gon|wan)(?=na\b) | got(?=ta\b) | (?:gim|lem)(?=me\b)
    | [a-z]+(?=[ ,]|$)                                            # a plain word: most are, so it comes early
    | </?[a-z][^<>]*>                                             # <br>
    | (?:https?://|www\.)\S*\w                                    # addresses of pages and of mail
    | [\w.+-]+@\w+(?:\.\w+)+
    | [:;=]-?[()]                                                 # :-)
    | (?-i:[A-Z]+&[A-Z]+)\b                                       # AT&T, but black & white
    | 't(?=(?:is|was)\b)
    | '{_CLITICS}                                                  # man 's, they 'll
    | '(?:n'|em\b|til\b|cause\b|\d\ds\b)                          # rock 'n' roll, '80s
    | n't\b | [^\W\d_]+?(?=n't\b)                                 # do n't
    | \d+\xa0\d+/\d+\b                                            # 22 3/4, one token
    | \b(?:[a-z]\.)+[a-z]\b\.?                                    # u.s. and u.s.a
    | \b[^\W\d_]\.(?!\w|\s*$|\s+(?:an?|the)\b)                    # the initial of j. rowling
    | \b(?:{_ABBREVIATIONS})\.(?!\w)
    | \b(?-i:Ark|Del|Mass|Miss|Tex|Wash)\.(?!\w)                  # a car wash. is none
    | \bno\.(?=\s*\d)
    | [^\W\d_]+(?:[.!?][^\W\d_]+)+\b                              # foo.com, and an end.without a space
    | \d+(?:[.:,/٫٬]\d+)*(?:-\d+(?:[.:,/]\d+)*)*(?![^\W_]|[.:,/]\d|-\w)  # 1,000 and 10-29-2011
    | \d+[.:]\d+ | [-+.]\d+(?![^\W_])                             # 5:54 pm, -5, .5
    | (?:o'clock|ma'am|o'er|cap'n|c'mon|c'est|s'mores|rock'n'roll)\b | ol'
    | (?:n|(?-i:[A-CE-HJKMNP-XZ]))'(?!{_CLITICS}) {_LETTER}{{2,}}  # n'est
    | (?:j'|[dl]'(?!{_LETTER}{_PLAIN}))(?![smd]\b) | y'(?!{_CLITICS})(?={_LETTER})  # j' ai, y' all
    | (?:[dlo]'(?=[a-z][a-z0-9]))? [a-z0-9]+ (?:[-_][a-z0-9]+)*   # black/white
      (?:/[a-z0-9]+(?:-[a-z0-9]+)*){{1,2}} (?![^\W_])
    | {_LETTER}+ (?<={_LETTER}[aeiouy])'(?!{_CLITICS})(?=(?-i:[aeiouA-Z])) {_LETTER}+  # qu'il
    | (?:[dlo]'(?={_LETTER}{_PLAIN}))? {_PLAIN}+                      # o'brien
      (?: [-_] (?:[dlo]'(?={_LETTER}{_PLAIN}))? {_PLAIN}+ )* (?![^\W_])  # t-shirt
    | [^\W_]+                                                     # a word with marks
    | [\#@][^\W\d_]\w*                                            # #hashtag, @name
    | -{{5,}} | [?!]{{2,}} | \*+
    | \S
    """,
    re.VERBOSE | re.IGNORECASE,
)

_MIXED_NUMBER = re.compile(r"(?<=\d) (?=\d+/\d)")
_CLITIC = re.compile(r"’(?=(?:s|m|d|re|ve|ll)$)|(?<=^n)’(?=t$)", re.IGNORECASE)


def _ptb_like(caption: str) -> str:
    text = _on_one_line(html.unescape(caption)).translate(_RESPELLED)
    text = _MIXED_NUMBER.sub("\xa0", text)
    tokens = _TOKEN.findall(text) if text.isascii() else _beyond_ascii(unicodedata.normalize("NFC", text))
    return _without_punctuation(tokens).lower().translate(_BRACKETS)


def _beyond_ascii(text: str) -> list[str]:
    """The tokens of a text in which marks belong to the words that they stand in."""
    text, pattern = _patterned(text)
    tokens = (text[match.start() : match.end()] for match in _TOKEN.finditer(pattern))
    return ["'" if token == "’" else _CLITIC.sub("'", token) for token in tokens]


def _patterned(text: str) -> tuple[str, str]:
    """A text without what is not seen, and the same with `_MARK` for the marks of words and straight apostrophes."""
    seen: list[str] = []
    pattern: list[str] = []
    for character in text:
        kind = unicodedata.category(character)
        if kind == "Cf":  # joiners, directions of writing
            character = alike = " "
        elif kind[0] != "M":
            alike = "'" if character == "’" else character
        elif pattern and pattern[-1].isalnum():
            alike = _MARK
        elif character in _VARIATIONS:
            continue  # of an emoji
        else:
            alike = character
        seen.append(character)
        pattern.append(alike)
    return "".join(seen), "".join(pattern)
