"""Dates written out in many ways, to be brought to ISO form: a sequence-to-sequence task that trains in two minutes.

    "the third of March, nineteen ninety-nine"  ->  "1999-03-03"

Which words a model must look at for which digit is known, so that its attention can be checked.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import date

from captioner.data.readers.base import TextReader
from captioner.types import TextPair

MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)

WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
ORDINALS = (
    *("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth", "eleventh"),
    *("twelfth", "thirteenth", "fourteenth", "fifteenth", "sixteenth", "seventeenth", "eighteenth", "nineteenth"),
    *("twentieth", "twenty-first", "twenty-second", "twenty-third", "twenty-fourth", "twenty-fifth", "twenty-sixth"),
    *("twenty-seventh", "twenty-eighth", "twenty-ninth", "thirtieth", "thirty-first"),
)

UNITS = (
    *("", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)

TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")

FIRST_DAY, LAST_DAY = date(1950, 1, 1), date(2049, 12, 31)  # a hundred years: two digits name a year

FORMS = (
    "{day} {month} {year}",
    "{month} {day}, {year}",
    "the {ordinal} of {month}, {year}",
    "{weekday} {day} {month} {year}",
    "{weekday}, {month} {ordinal}, {year}",
    "{weekday} the {ordinal} of {month} {year}",
    "{full_year}, {month} {day}",
    "{full_year}: the {ordinal} of {month}",
)


@dataclass(frozen=True)
class Dates(TextReader):
    """Days from 1950 to 2049 as people write them, and their ISO form. No two sentences, in any splits, are of one day.

    Months and days of the week are full words or abbreviations; days of the month and years are digits or words; a year
    may be its last two digits. Every sentence has one reading: a month is never a number, a year of two digits comes
    last and a day of the month has no leading zero.

    Attributes:
        num_train: sentences of the split "train".
        num_dev: of the split "dev".
        num_test: of the split "test".
        seed: which days, and how they are written.
    """

    num_train: int = 10_000
    num_dev: int = 1000
    num_test: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        num_days = LAST_DAY.toordinal() - FIRST_DAY.toordinal() + 1
        wanted = self.num_train + self.num_dev + self.num_test
        if wanted > num_days:
            raise ValueError(f"{wanted:,} sentences need as many days, but from 1950 to 2049 there are {num_days:,}")

    @property
    def splits(self) -> tuple[str, ...]:
        """The names "train", "dev" and "test"."""
        return ("train", "dev", "test")

    def items(self, split: str) -> list[TextPair]:
        """The sentences of a split, the same every time."""
        days = list(range(FIRST_DAY.toordinal(), LAST_DAY.toordinal() + 1))
        random.Random(self.seed).shuffle(days)
        ends = {"dev": self.num_dev, "test": self.num_dev + self.num_test}
        starts = {"dev": 0, "test": ends["dev"], "train": ends["test"]}
        of_split = days[starts[split] : ends.get(split, starts[split] + self.num_train)]
        return [self._pair(number, date.fromordinal(day)) for number, day in enumerate(of_split)]

    def _pair(self, number: int, day: date) -> TextPair:
        rng = random.Random(f"{self.seed} {day}")
        return TextPair(number, write_out(day, rng), (day.isoformat(),))


def write_out(day: date, rng: random.Random) -> str:
    """A day as somebody might write it.

    Args:
        day: from 1950 to 2049.
        rng: draws the form and how each part is written.
    """
    ordinal = rng.choice([f"{day.day}{_ending(day.day)}", ORDINALS[day.day - 1]])
    full_year = rng.choice([str(day.year), str(day.year), rng.choice(year_in_words(day.year))])
    text = rng.choice(FORMS).format(
        day=rng.choice([str(day.day), str(day.day), ordinal]),
        ordinal=ordinal,
        weekday=_perhaps_short(WEEKDAYS[day.weekday()], rng),
        month=_perhaps_short(MONTHS[day.month - 1], rng),
        full_year=full_year,
        year=rng.choice([full_year, full_year, f"{day.year % 100:02}"]),
    )
    return rng.choice([text, text.lower()])


def year_in_words(year: int) -> list[str]:
    """The ways to say a year from 1950 to 2049, one at least."""
    century, rest = divmod(year, 100)
    if century == 19:
        return [f"nineteen {_number(rest)}"]
    if rest == 0:
        return ["two thousand"]
    said = [f"two thousand {_number(rest)}", f"two thousand and {_number(rest)}"]
    return [*said, f"twenty {_number(rest) if rest >= 10 else 'oh ' + UNITS[rest]}"]


def _number(value: int) -> str:
    """A number from 1 to 99 in words."""
    if value < 20:
        return UNITS[value]
    return f"{TENS[value // 10]}-{UNITS[value % 10]}".rstrip("-")


def _ending(day: int) -> str:
    if day in (11, 12, 13):
        return "th"
    return {1: "st", 2: "nd", 3: "rd"}.get(day % 10, "th")


def _perhaps_short(name: str, rng: random.Random) -> str:
    return rng.choice([name, name, name[:3]])
