"""Captions to ids and back: what goes in comes out, and the same captions give the same ids every time."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest

import captioner
from captioner.tokenizer import SPECIAL_WORDS, BytePairs, Characters, Tokenizer, WordLevel

CAPTIONS = [
    "A black dog runs through the snow .",
    "a BLACK dog's t-shirt, torn!",
    "Two girls are running; two girls are laughing.",
    "the snow (white snow) is running down the hill",
    "Ein Mädchen trägt ein weißes T-Shirt",
    "собака бежит",
]
BUILDERS = {"words": WordLevel(min_count=1), "byte pairs": BytePairs(vocab_size=120)}
TEXTS = [
    *CAPTIONS,
    "",
    " ",
    "?! ...",
    "a zebra runs",
    "<bos> a dog <eos> <pad> <unk>",
    "naïve ﬁre ½ ２０ e\u0301 İstanbul",
    "犬が走る 🐕 dog",
    "under_score it’s rock-n-roll -dog- 'dog'",
    "a\tdog\nruns\x00here",
]


@pytest.fixture(params=BUILDERS)
def tokenizer(request):
    return BUILDERS[request.param].fit(CAPTIONS)


def test_special_words_come_first(tokenizer):
    assert [tokenizer.backend.id_to_token(i) for i in range(4)] == list(SPECIAL_WORDS)
    assert (tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id, tokenizer.unk_id) == (0, 1, 2, 3)


def test_a_caption_may_end_but_never_pad_begin_or_be_unknown(tokenizer):
    assert set(tokenizer.never) == {tokenizer.pad_id, tokenizer.bos_id, tokenizer.unk_id}
    assert tokenizer.eos_id not in tokenizer.never


@pytest.mark.parametrize(
    ("caption", "plain"),
    [
        (CAPTIONS[0], "a black dog runs through the snow"),
        (CAPTIONS[1], "a black dog's t-shirt torn"),
        (CAPTIONS[4], "ein mädchen trägt ein weißes t-shirt"),
        (CAPTIONS[5], "собака бежит"),
    ],
)
def test_round_trip(tokenizer, caption, plain):
    assert tokenizer.decode(tokenizer.encode(caption)) == plain


@pytest.mark.parametrize("text", TEXTS)
def test_text_gives_words_and_unknown_words_only(tokenizer, text):
    ids = tokenizer.encode(text)
    assert not set(ids) & {tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id}
    assert all(0 <= token_id < tokenizer.vocab_size for token_id in ids)
    if tokenizer.unk_id not in ids:
        assert tokenizer.encode(tokenizer.decode(ids)) == ids


@pytest.mark.parametrize("text", TEXTS)
def test_spans_and_alignment_tile_the_ids(tokenizer, text):
    ids = tokenizer.encode(text)
    for pairs in (tokenizer.spans(ids), tokenizer.align(text)):
        assert [position for _, where in pairs for position in range(len(ids))[where]] == list(range(len(ids)))
    if tokenizer.unk_id not in ids:
        assert tokenizer.align(text) == tokenizer.spans(ids)


@pytest.mark.parametrize("text", ["", " ", "?! ..."])
def test_text_without_words_has_no_ids(tokenizer, text):
    assert tokenizer.encode(text) == []
    assert tokenizer.decode([]) == ""
    assert tokenizer.align(text) == []


def test_unknown_words_are_spelt_out_by_alignment_only(tokenizer):
    text = "a Ж犬Ж dog, e\u0301Жﬁ!"
    assert [word for word, _ in tokenizer.align(text)] == ["a", "ж犬ж", "dog", "éжfi"]
    assert "<unk>" in tokenizer.decode(tokenizer.encode(text))


def test_special_ids_spell_nothing(tokenizer):
    ids = [tokenizer.bos_id, *tokenizer.encode("a black dog"), tokenizer.eos_id, tokenizer.pad_id]
    assert tokenizer.words(ids) == ["a", "black", "dog"]
    first, *_ = tokenizer.spans(ids)
    assert first == ("a", slice(1, 2))


def test_an_id_that_is_none_is_refused(tokenizer):
    with pytest.raises(ValueError, match=f"{tokenizer.vocab_size} is not in the vocabulary"):
        tokenizer.decode([tokenizer.vocab_size])


def test_json_and_pickle_keep_everything(tokenizer):
    for copy in (Tokenizer.from_json(tokenizer.to_json()), pickle.loads(pickle.dumps(tokenizer))):
        assert copy.to_json() == tokenizer.to_json()
        assert [copy.encode(text) for text in TEXTS] == [tokenizer.encode(text) for text in TEXTS]


@pytest.mark.parametrize("text", ["", "{}", "[1]", "no json", '{"version": "1.0"}'])
def test_what_is_no_tokenizer_is_refused(text):
    with pytest.raises(ValueError, match="not a tokenizer"):
        Tokenizer.from_json(text)


def test_a_foreign_tokenizer_is_refused(tokenizer):
    foreign = json.loads(tokenizer.to_json())
    foreign["added_tokens"][2]["content"] = "</s>"
    foreign["model"]["vocab"]["</s>"] = foreign["model"]["vocab"].pop("<eos>")
    with pytest.raises(ValueError, match="the first four words must be"):
        Tokenizer.from_json(json.dumps(foreign))


@pytest.mark.parametrize("builder", BUILDERS)
def test_fitting_again_gives_the_same_ids(builder):
    """In another process too, with other hash tables and another number of threads."""
    kind, (name, value) = type(BUILDERS[builder]).__name__, next(iter(vars(BUILDERS[builder]).items()))
    here = BUILDERS[builder].fit(CAPTIONS).to_json()
    assert all(BUILDERS[builder].fit(CAPTIONS).to_json() == here for _ in range(5))
    program = (
        f"from captioner.tokenizer import {kind}\n"
        f"print(ascii({kind}({name}={value}).fit({CAPTIONS!a}).to_json()), end='')"
    )
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(captioner.__file__).parents[1]),
        "RAYON_NUM_THREADS": "3",
        "PYTHONHASHSEED": "7",
    }
    there = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert there.stdout == ascii(here)


def test_fit_takes_any_iterable():
    for builder in BUILDERS.values():
        assert builder.fit(iter(CAPTIONS)).to_json() == builder.fit(CAPTIONS).to_json()


def test_words_are_kept_by_count_then_by_alphabet():
    captions = ["c c c b b a a d"]
    vocabulary = {
        min_count: [WordLevel(min_count).fit(captions).decode([i]) for i in range(4, 8 - min_count + (min_count < 3))]
        for min_count in (1, 2, 3)
    }
    assert vocabulary == {1: ["c", "a", "b", "d"], 2: ["c", "a", "b"], 3: ["c"]}


def test_a_word_seen_too_seldom_is_unknown():
    tokenizer = WordLevel(min_count=2).fit(["a dog", "a cat", "a dog"])
    assert tokenizer.encode("a cat") == [*tokenizer.encode("a"), tokenizer.unk_id]
    assert tokenizer.vocab_size == 4 + 2


@pytest.mark.parametrize("max_size", [5, 6, 7, 100])
def test_max_size_counts_the_special_words(max_size):
    tokenizer = WordLevel(min_count=1, max_size=max_size).fit(["c c c b b a a d"])
    assert tokenizer.vocab_size == min(max_size, 8)
    assert tokenizer.words(tokenizer.encode("c"))[0] == "c"


@pytest.mark.parametrize("max_size", [-1, 0, 4])
def test_a_vocabulary_without_words_is_refused(max_size):
    with pytest.raises(ValueError, match="max_size"):
        WordLevel(min_count=1, max_size=max_size).fit(CAPTIONS)


@pytest.mark.parametrize("captions", [[], [""], ["?!"], ["only once"]])
def test_no_captions_and_no_words_are_an_error(captions):
    with pytest.raises(ValueError, match="no word of the captions"):
        WordLevel(min_count=2).fit(captions)


def test_frequent_words_are_whole_and_rare_ones_in_pieces():
    tokenizer = BytePairs(vocab_size=60).fit(["the running dog"] * 20 + ["the gunner"])
    assert len(tokenizer.encode("the running dog")) == 3
    ids = tokenizer.encode("the runner god")
    assert len(ids) > 3
    assert tokenizer.words(ids) == ["the", "runner", "god"]
    assert next(where.stop - where.start for _, where in tokenizer.spans(ids)) == 1


def test_any_word_of_known_characters_is_known_to_byte_pairs():
    """Wherever a character was seen: each of these begins words only, or ends them only."""
    tokenizer = BytePairs(vocab_size=60).fit(["ab cd"])
    for text in ("ba dc", "dddd", "bcab"):
        assert tokenizer.unk_id not in tokenizer.encode(text)
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_byte_pairs_need_room_for_the_characters():
    with pytest.raises(ValueError, match="choose at least 12"):
        BytePairs(vocab_size=11).fit(["ab cd"])
    assert BytePairs(vocab_size=12).fit(["ab cd"]).vocab_size == 12


def test_a_special_id_ends_a_word_of_pieces():
    tokenizer = BytePairs(vocab_size=60).fit(["ab cd"])
    a, b = tokenizer.encode("ab")
    assert tokenizer.words([a, b]) == ["ab"]
    assert tokenizer.words([a, tokenizer.eos_id, b]) == ["a", "b"]


# ------------------------------------------------------------------------------------------ characters

CHARACTER_TEXTS = ["2024-03-05", "a, b; c!", "  two  spaces ", "a\tb\nc", "Naïve T-Shirt #1 <eos>", " ", "犬 🐕"]


@pytest.fixture(scope="module")
def characters():
    return Characters().fit([*CHARACTER_TEXTS, "March 3, 1999"])


@pytest.mark.parametrize("text", CHARACTER_TEXTS)
def test_characters_give_a_text_back_as_it_was(characters, text):
    ids = characters.encode(text)
    assert characters.decode(ids) == text.lower()
    assert characters.words(ids) == list(text.lower())
    assert characters.spans(ids) == characters.align(text)
    assert [where for _, where in characters.align(text)] == [slice(n, n + 1) for n in range(len(text))]
    assert characters.decode([characters.bos_id, *ids, characters.eos_id, characters.pad_id]) == text.lower()


def test_characters_are_in_no_case_and_unknown_where_never_seen(characters):
    assert characters.encode("MARCH") == characters.encode("march")
    assert characters.unknown_words("march: 7") == [":", "7"]
    assert characters.decode(characters.encode("m7")) == "m<unk>"
    assert characters.encode("") == []


def test_characters_are_the_same_every_time_and_after_saving(characters):
    again = Characters().fit(iter([*CHARACTER_TEXTS, "March 3, 1999"]))
    for copy in (again, Tokenizer.from_json(characters.to_json()), pickle.loads(pickle.dumps(characters))):
        assert copy.to_json() == characters.to_json()
        assert copy.decode(copy.encode("3, 1999")) == "3, 1999"
    assert characters.vocab_size == 4 + len(set("".join([*CHARACTER_TEXTS, "march 3, 1999"]).lower()))


def test_characters_of_nothing_are_refused():
    with pytest.raises(ValueError, match="are there captions at all"):
        Characters().fit([""])


def test_words_are_joined_as_they_are_decoded(tokenizer, characters):
    ids = tokenizer.encode("two girls are running")
    assert tokenizer.join(tokenizer.words(ids)) == tokenizer.decode(ids) == "two girls are running"
    assert characters.join(["1", "9", " ", "9"]) == "19 9"


def test_unknown_words_are_named_as_spelt():
    tokenizer = WordLevel(min_count=1).fit(["a red dog"])
    assert tokenizer.unknown_words("A Zxqv dog, réd!") == ["zxqv", "réd"]
    assert tokenizer.unknown_words("a dog") == []


# ------------------------------------------------------------------------------------------ other scripts

SCRIPTS = {
    "एक लड़की खेल रही है, और कुत्ता दौड़ता है।": "एक लड़की खेल रही है और कुत्ता दौड़ता है",
    "رَجُلٌ يَرْكَبُ حِصَانًا.": "رَجُلٌ يَرْكَبُ حِصَانًا",
    "Un café, très éloigné": "un café très éloigné",
    "ชายขี่ม้า วันนี้": "ชายขี่ม้า วันนี้",
    "ಕನ್ನಡ ನಾಯಿ မြန်မာ x̂y": "ಕನ್ನಡ ನಾಯಿ မြန်မာ x̂y",
}


@pytest.mark.parametrize("builder", BUILDERS)
@pytest.mark.parametrize("text", SCRIPTS)
def test_marks_belong_to_words_however_they_are_encoded(builder, text):
    tokenizer = type(BUILDERS[builder])(1 if builder == "words" else 400).fit(SCRIPTS)
    for form in ("NFC", "NFD"):
        ids = tokenizer.encode(unicodedata.normalize(form, text))
        assert tokenizer.decode(ids) == unicodedata.normalize("NFKC", SCRIPTS[text])


UNCUT = {
    "Chinese": ["一个人在沙滩上骑马。", "两只狗在雪地里奔跑。"],
    "Chinese, with commas and a number": ["一个穿红色衣服的女孩，在公园里放风筝，2只小狗。"] * 3,
    "Japanese": ["男性が浜辺で馬に乗っている。", "犬が走る"],
    "Thai": ["ชายคนหนึ่งขี่ม้าบนชายหาด", "สุนัขสองตัววิ่งเล่นในหิมะ และเด็กชาย"],
    "dates": ["1999-03-03", "2004-05-06"],
}
CUT = {
    "English": ["a dog runs", "two dogs"],
    "Chinese, cut into words": ["一个 人 在 沙滩 上 骑马 。"],
    "Japanese, cut into words": ["男性 が スケートボード に 乗って いる 。", "犬 が 走る"],
    "Thai, cut into words": ["ชาย คน หนึ่ง ขี่ ม้า บน ชายหาด"],
    "Korean": ["한 남자가 해변에서 말을 타고 있다"],
    "one of many": ["a dog runs on the beach"] * 9 + ["一个人在沙滩上骑马。"],
    "blanks": ["", " ", "two brown dogs", ""],
}


@pytest.mark.parametrize("case", UNCUT)
def test_sentences_that_would_be_words_are_warned_of(case):
    with pytest.warns(UserWarning, match=r"the captions average \d\.\d words.*Characters or BytePairs"):
        WordLevel(min_count=1).fit(UNCUT[case])


@pytest.mark.parametrize("case", CUT)
def test_words_are_not_warned_of(case, recwarn):
    WordLevel(min_count=1).fit(CUT[case])
    BytePairs().fit(UNCUT["Chinese"])
    Characters().fit(UNCUT["Chinese"])
    assert not recwarn


@pytest.mark.parametrize("builder", [*BUILDERS.values(), Characters()])
def test_half_a_character_is_unknown(builder):
    """As of an emoji that was cut, or of bytes on a command line: a text as any other, not an error."""
    for half in ("\ud83d", "\udc15", "\udcff"):
        tokenizer = builder.fit([*CAPTIONS, f"a dog {half} runs"])
        text = f"a black{half} dog{half}"
        ids = tokenizer.encode(text)
        assert ids == tokenizer.encode(text.replace(half, "\ufffd"))
        assert [where for _, where in tokenizer.align(text)] == [where for _, where in tokenizer.spans(ids)]
        assert not any(half in word for word in tokenizer.words(ids))
