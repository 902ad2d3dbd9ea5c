"""Made dates: every sentence has one reading, found here by a reader of its own, and it is what is asked for."""

from __future__ import annotations

import random
import re
from datetime import date

import pytest

from captioner.data.readers import Dates
from captioner.data.readers.dates import FIRST_DAY, LAST_DAY, MONTHS, ORDINALS, WEEKDAYS, write_out, year_in_words
from captioner.tokenizer import Characters, WordLevel

YEARS = {words: year for year in range(1950, 2050) for words in year_in_words(year)}
DAYS = {word: day for day, word in enumerate(ORDINALS, 1)}


def readings(text: str) -> set[str]:
    """All days that a text can mean: its parts in any order that people write dates in."""
    words = re.findall(r"[\w-]+", text.lower())
    words = [word for word in words if word not in ("the", "of")]
    if words[0][:3] in {name.lower()[:3] for name in WEEKDAYS}:
        weekday = next(number for number, name in enumerate(WEEKDAYS) if name.lower().startswith(words[0]))
        words = words[1:]
    else:
        weekday = None
    found = set()
    for first in range(1, len(words)):
        for second in range(first + 1, len(words) + 1):
            parts = [" ".join(part) for part in (words[:first], words[first:second], words[second:])]
            for order in ((0, 1, 2), (1, 0, 2), (2, 1, 0), (1, 2, 0)):  # of day, month, year: where each is
                day, month, year = (parts[place] for place in order)
                found |= read_parts(day, month, year, is_last=order[2] == 2)
    return {day.isoformat() for day in found if weekday in (None, day.weekday())}


def read_parts(day: str, month: str, year: str, is_last: bool) -> set[date]:
    months = [n for n, name in enumerate(MONTHS, 1) if month in (name.lower(), name.lower()[:3])]
    digits = re.fullmatch(r"([1-9]\d?)(?:st|nd|rd|th)?", day)
    days = [int(digits[1])] if digits else [DAYS[day]] if day in DAYS else []
    years = [YEARS[year]] if year in YEARS else []
    if re.fullmatch(r"\d{4}", year):
        years = [int(year)]
    elif re.fullmatch(r"\d{2}", year) and is_last:
        years = [year for year in (1900 + int(year), 2000 + int(year)) if FIRST_DAY.year <= year <= LAST_DAY.year]
    found = set()
    for values in ((y, m, d) for y in years for m in months for d in days):
        try:
            found.add(date(*values))
        except ValueError:
            continue  # no such day
    return found


def test_every_sentence_has_one_reading():
    for item in Dates(num_train=1500, num_dev=500, num_test=0).read("train"):
        assert readings(item.text) == set(item.captions), item.text


@pytest.mark.parametrize("day", [date(2003, 2, 1), date(2012, 12, 12), date(1950, 1, 1), date(2000, 2, 29), LAST_DAY])
def test_every_way_of_writing_a_hard_day_has_one_reading(day):
    texts = {write_out(day, random.Random(seed)) for seed in range(300)}
    assert len(texts) > 50
    assert {reading for text in texts for reading in readings(text)} == {day.isoformat()}
    assert all(len(readings(text)) == 1 for text in texts)


def test_years_in_words():
    assert len(YEARS) == sum(len(year_in_words(year)) for year in range(1950, 2050))  # no words for two years
    assert year_in_words(1999) == ["nineteen ninety-nine"]
    assert year_in_words(1950) == ["nineteen fifty"]
    assert year_in_words(2000) == ["two thousand"]
    assert year_in_words(2005) == ["two thousand five", "two thousand and five", "twenty oh five"]
    assert year_in_words(2041) == ["two thousand forty-one", "two thousand and forty-one", "twenty forty-one"]


def test_no_day_comes_twice_in_any_splits():
    reader = Dates(num_train=300, num_dev=200, num_test=100)
    splits = {split: reader.read(split) for split in reader.splits}
    assert {split: len(items) for split, items in splits.items()} == {"train": 300, "dev": 200, "test": 100}
    assert len({item.captions for items in splits.values() for item in items}) == 600
    for items in splits.values():
        assert len({item.key for item in items}) == len(items)


def test_the_seed_makes_the_dates():
    assert Dates(50, 5, 5).read("train") == Dates(50, 5, 5).read("train")
    assert Dates(50, 5, 5).read("dev") == Dates(90, 5, 5).read("dev")
    assert Dates(50, 5, 5, seed=1).read("train") != Dates(50, 5, 5).read("train")
    assert Dates(3, 1, 1).read("train")[0].text == "Thursday, July twenty-eighth, nineteen ninety-four"


def test_more_sentences_than_days_are_refused():
    Dates(36_525, 0, 0)
    with pytest.raises(ValueError, match=r"36,526 sentences need as many days, .* there are 36,525"):
        Dates(36_525, 1, 0)


def test_what_is_trained_on_has_the_words_of_the_rest():
    """So that 99% can be reached: nothing in dev is unknown."""
    reader = Dates()
    train = reader.read("train")
    words = WordLevel(1).fit(item.text for item in train)
    characters = Characters().fit(text for item in train for text in item.captions)
    for item in reader.read("dev"):
        assert not words.unknown_words(item.text)
        assert characters.decode(characters.encode(item.captions[0])) == item.captions[0]
