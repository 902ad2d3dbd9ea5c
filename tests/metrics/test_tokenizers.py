"""Captions into words: the built-in tokenizer against a table, and both against each other."""

from __future__ import annotations

import unicodedata

import pytest

from captioner.metrics import BuiltinTokenizer, PTBTokenizer
from captioner.metrics.java import find_java

needs_java = pytest.mark.skipif(find_java() is None, reason="needs Java")

# What Stanford's PTB tokenizer makes of each; the first test holds the table, the second the tokenizer.
CASES = {
    "A man rides a horse.": "a man rides a horse",
    "A man's dog": "a man 's dog",
    "The girls' hats and the men's' room": "the girls hats and the men 's room",
    "They don't, can't and won't": "they do n't ca n't and wo n't",
    "They'll say we've seen what I'm at, he'd say": "they 'll say we 've seen what i 'm at he 'd say",
    "It cannot stop, it is gonna go": "it can not stop it is gon na go",
    "A t-shirt and a well-lit, half-eaten pizza": "a t-shirt and a well-lit half-eaten pizza",
    "kites -- and a dog - running; really?": "kites and a dog running really",
    "beach--kite flying": "beach kite flying",
    'A sign says "Don\'t stop".': "a sign says do n't stop",
    "“Curly” quotes and a dog’s bone…": "curly quotes and a dog 's bone",
    "so ... then... and wait....": "so then and wait",
    "Look! What?! Really??": "look what ?! really ??",
    "Two (2) dogs [left] run": "two -lrb- 2 -rrb- dogs -lsb- left -rsb- run",
    "A black/white photo and/or a drawing": "a black/white photo and/or a drawing",
    "a hat & pink top, black&white": "a hat & pink top black & white",
    "An AT&T headset": "an at&t headset",
    "Mr. Smith on Furnace St. and 12th Ave. now": "mr. smith on furnace st. and 12th ave. now",
    "The U.S. flag, a T.V. and a D.V.D player": "the u.s. flag a t.v. and a d.v.d player",
    "J. Smith at a car wash.": "j. smith at a car wash",
    "It reads 12:43 or 5:54pm, 1,000 and 1.5": "it reads 12:43 or 5:54 pm 1,000 and 1.5",
    "a 4-wheeler, a 1950s car, a 3rd one": "a 4-wheeler a 1950s car a 3rd one",
    "the #41 bus costs $5, 50% off": "the # 41 bus costs $ 5 50 % off",
    "at 22 3/4 street": "at 22\xa03/4 street",
    "parked in the ground.A person": "parked in the ground.a person",
    "a five o'clock shadow, an hors d'oeuvre": "a five o'clock shadow an hors d'oeuvre",
    "a slip 'n' slide in the '80s": "a slip 'n' slide in the '80s",
    "see statefarm.com today": "see statefarm.com today",
    "Un café naïve": "un café naïve",
    "L'été, j'ai vu qu'il n'est pas d'ici": "l'été j' ai vu qu'il n'est pas d'ici",
    "L’homme s'amuse jusqu'à l’arrêt d’un bus": "l’homme s amuse jusqu à l’arrêt d’un bus",
    "C'est « drôle » : quelqu'un l'a mis côté/face": "c'est drôle quelqu'un l' a mis côté / face",
    "AMANDA'S DON'T MA'AM D'Angelo's chef-d'œuvre": "amanda 's do n't ma'am d'angelo 's chef-d'œuvre",
    "एक आदमी घोड़े की सवारी कर रहा है।": "एक आदमी घोड़े की सवारी कर रहा है ।",
    "२ कुत्ते, साथ-साथ दौड़ते हैं!": "२ कुत्ते साथ साथ दौड़ते हैं",
    "রাস্তায় একটি মেয়ে": "রাস্তায় একটি মেয়ে",
    "குதிரை சவாரி": "குதிரை சவாரி",
    "رَجُلٌ يَرْكَبُ حِصَانًا عَلَى الشَّاطِئِ.": "رَجُلٌ يَرْكَبُ حِصَانًا عَلَى الشَّاطِئِ",
    "رجل يركب، ويبتسم؟ ٣٫٥ متر": "رجل يركب ، ويبتسم ؟ ٣٫٥ متر",
    "ילד רוכב עַל סוּס": "ילד רוכב עַל סוּס",
    "ชายคนหนึ่งขี่ม้า": "ชายคนหนึ่งขี่ม้า",
    "Một người đàn ông cưỡi ngựa": "một người đàn ông cưỡi ngựa",
    "男性が浜辺で馬に乗っている。": "男性が浜辺で馬に乗っている 。",
    "한국어 문장입니다": "한국어 문장입니다",
    "x̂ and ŷ's": "x̂ and ŷ 's",
    "می\u200cخواهم \u200fשלום\u200e a\u200bb co\xadop": "می خواهم שלום a b coop",
    "I ❤\ufe0f NY": "i ❤ ny",
    "  two\tspaces   here ": "two spaces here",
    "...": "",
    "": "",
}

WHOLE_WORDS = [  # of which the PTB tokenizer drops or cuts off some marks
    "ಕನ್ನಡ ನಾಯಿ",
    "മലയാളം പട്ടി",
    "မြန်မာ ခွေး",
    "ខ្មែរ ឆ្កែ",
    "ਪੰਜਾਬੀ ਕੁੱਤਾ",
    "कर बिल्ली",
    "𑀓𑀸 𑀓",
]

LINE_BREAKS = ["\n", "\r", "\r\n", "\v", "\f", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029"]


@pytest.mark.parametrize(("caption", "words"), CASES.items())
def test_builtin_tokenizer(caption, words):
    assert BuiltinTokenizer().tokenize([caption]) == [words]


@needs_java
def test_ptb_tokenizer_agrees_with_the_table():
    assert PTBTokenizer().tokenize(list(CASES)) == list(CASES.values())


@pytest.fixture(params=[BuiltinTokenizer, pytest.param(PTBTokenizer, marks=needs_java)])
def tokenizer(request):
    return request.param()


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_words_do_not_depend_on_how_marks_are_encoded(tokenizer, form):
    captions = [unicodedata.normalize(form, caption) for caption in CASES]
    assert tokenizer.tokenize(captions) == list(CASES.values())


@pytest.mark.parametrize("caption", WHOLE_WORDS)
def test_marks_belong_to_words(caption):
    for form in ("NFC", "NFD"):
        assert BuiltinTokenizer().tokenize([unicodedata.normalize(form, caption)]) == [caption]


def test_a_mark_that_follows_no_letter_is_a_word():
    assert BuiltinTokenizer().tokenize(["a \u0301 b", "\u0301", "!\u0301"]) == ["a \u0301 b", "\u0301", "\u0301"]


def test_line_breaks_are_spaces(tokenizer):
    captions = [f"a dog{line_break}and a cat" for line_break in LINE_BREAKS]
    captions += ["\n", "the end\n", "last"]
    words = ["a dog and a cat"] * len(LINE_BREAKS) + ["", "the end", "last"]
    assert tokenizer.tokenize(captions) == words


@pytest.mark.parametrize("caption", ["a <b\nr> dog", "a cat&#10;sits", "a\u2028b"])
def test_words_stand_on_one_line(tokenizer, caption):
    """METEOR's program reads lines."""
    (words,) = tokenizer.tokenize([caption])
    assert len(words.splitlines()) == 1


def test_no_captions(tokenizer):
    assert tokenizer.tokenize([]) == []


@pytest.mark.parametrize("captions", [["", "", ""], ["a", ""], ["", "a"], ["", "a", "", "", "b", ""]])
def test_empty_captions_keep_their_places(tokenizer, captions):
    assert tokenizer.tokenize(captions) == captions


def test_half_a_surrogate_pair_does_no_harm(tokenizer):
    words = tokenizer.tokenize(["a dog \ud83d runs", "a cat"])
    assert len(words) == 2
    assert words[0].startswith("a dog") and words[1] == "a cat"
