"""The text files in shards follow the rules of all readers."""

from __future__ import annotations

import pytest

from captioner.data.shards.notes import Notes, read_notes

PLACE = "x.tar/1.json"


def read(text):
    return read_notes(text.encode(), is_json=True, where=PLACE)


@pytest.mark.parametrize(
    ("text", "image_id"),
    [
        ("17", 17),
        ("1.0", 1),
        ("0", 0),
        ("-3", -3),
        ("1e3", 1000),
        ('"a"', "a"),
        ('"17"', "17"),
        ("123456789012345678901", 123456789012345678901),
        ("null", None),
    ],
)
def test_ids(text, image_id):
    notes = read(f'{{"image_id": {text}}}')
    assert notes == Notes([], image_id)
    assert type(notes.image_id) is type(image_id)


@pytest.mark.parametrize("text", ["1.5", "1e999", "-1e999", "1e300", "true", "false", '""', "[1]", "[]", "{}"])
def test_what_is_no_id_is_an_error(text):
    notes = read(f'{{"image_id": {text}, "captions": ["a dog"]}}')
    assert (notes.captions, notes.image_id) == ([], None)
    assert notes.trouble.startswith("image id ")
    assert notes.trouble.endswith("; a whole number or a text is expected")


@pytest.mark.parametrize(
    ("text", "captions"),
    [
        ('"caption": " a dog "', ["a dog"]),
        ('"caption": ["a", " ", "b"]', ["a", "b"]),
        ('"captions": "a"', ["a"]),
        ('"captions": ["a", "", "b"], "caption": 5', ["a", "b"]),
        ('"captions": [], "caption": "a"', ["a"]),
        ('"captions": null, "caption": "a"', ["a"]),
        ('"captions": null', []),
        ('"caption": ""', []),
        ('"caption": "\\ud83d\\udc36"', ["\N{DOG FACE}"]),
        ('"url": "https://x", "similarity": 0.3, "exif": {"a": [1, null]}, "status": true', []),
    ],
)
def test_captions(text, captions):
    assert read(f"{{{text}}}") == Notes(captions)


@pytest.mark.parametrize(
    ("text", "trouble"),
    [
        ('{"caption": 5}', '"caption" is 5; a text or a list of texts is expected'),
        ('{"captions": 0}', '"captions" is 0; a text or a list of texts is expected'),
        ('{"captions": false, "caption": "a"}', '"captions" is False; a text or a list of texts is expected'),
        ('{"captions": {"en": "a"}}', "\"captions\" is {'en': 'a'}; a text or a list of texts is expected"),
        ('{"captions": ["a", 5, null]}', '"captions[1]" is 5; a text is expected'),
        ('{"captions": ["a", null]}', '"captions[1]" is None; a text is expected'),
        ('{"captions": [["a"]]}', "\"captions[0]\" is ['a']; a text is expected"),
        ('{"caption": "a dog \\ud83d"}', "the caption 'a dog \\ud83d' holds half a character, '\\ud83d': "),
        ('{"captions": ["\\udc00"]}', "the captions[0] '\\udc00' holds half a character, '\\udc00': "),
        ('{"caption": "a dog", "caption": "a cat"}', "malformed JSON: the key 'caption' comes twice in one object"),
        ('{"image_id": 1, "image_id": 2}', "malformed JSON: the key 'image_id' comes twice in one object"),
        ('{"image_id": NaN}', "image id nan; a whole number or a text"),
        ('{"image_id": -Infinity}', "image id -inf; a whole number or a text"),
        ("{broken", "malformed JSON: Expecting property name"),
        ("", "malformed JSON: Expecting value"),
        ("[" * 100_000, "malformed JSON: "),
    ],
)
def test_what_makes_no_sense_is_an_error(text, trouble):
    notes = read(text)
    assert (notes.captions, notes.image_id) == ([], None)
    assert notes.trouble.startswith(trouble)


@pytest.mark.parametrize("text", ["[]", "5", '"a dog"', "null", "[1, 2]"])
def test_json_that_is_no_object_says_nothing(text):
    assert read(text) == Notes([])


def test_texts_are_utf_8():
    assert read_notes("\ufeffein Hund\r\n\n zwei Füße ".encode(), is_json=False, where=PLACE) == Notes(
        ["ein Hund", "zwei Füße"]
    )
    assert read_notes('\ufeff{"caption": "Füße"}'.encode(), is_json=True, where=PLACE) == Notes(["Füße"])
    for is_json in (False, True):
        notes = read_notes(b'{"caption": "\xff"}', is_json, PLACE)
        assert notes == Notes([], None, "not UTF-8 text (invalid start byte at byte 13): save it in UTF-8")


def test_other_fields_of_others_may_be_no_numbers():
    assert read_notes(b'{"caption": "a dog", "similarity": NaN}', True, "here") == Notes(["a dog"])
