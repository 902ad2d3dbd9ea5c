"""Text files of others, read strictly: UTF-8, JSON, YAML, ids, captions, COCO's format. Errors name file and place."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

ItemId = int | str
"""What names an image or a sentence: COCO's ids are integers; data sets without ids use the file's name."""

LARGEST_EXACT = 2**53  # up to here a float is one integer alone


# ------------------------------------------------------------------------------------------ files


@contextmanager
def text_file(path: str | Path) -> Iterator[io.TextIOBase]:
    """A UTF-8 file, with or without a byte-order mark, to read; line breaks stay as they are.

    Raises:
        ValueError: it is not UTF-8; the message names it.
        OSError: it cannot be read.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            yield file
    except UnicodeDecodeError as error:
        reason = f"{error.reason} at byte {error.start}"
        raise ValueError(f"{path}: not UTF-8 text ({reason}): save it in UTF-8") from error


def read_text(path: str | Path) -> str:
    """All of a file, see `text_file`."""
    with text_file(path) as file:
        return file.read()


def numbered_lines(path: str | Path) -> Iterator[tuple[str, str]]:
    """The lines of a file that are not blank, each with its place for errors."""
    with text_file(path) as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield f"{path}, line {number}", line.rstrip("\r\n")


def parse_json(text: str, where: str, not_numbers: bool = False) -> Any:
    """What a JSON text holds, with no key twice in one object.

    Args:
        text: the JSON.
        where: its place, for the error.
        not_numbers: whether NaN and infinity may be among it, as in fields of others that nobody reads here.

    Raises:
        ValueError: it is malformed.
    """
    constant = float if not_numbers else _refuse_constant
    try:
        return json.loads(text, object_pairs_hook=_without_twins, parse_constant=constant)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: malformed JSON: {error}") from error


def read_json(path: str | Path) -> Any:
    """What a JSON file in UTF-8 holds, see `parse_json`."""
    return parse_json(read_text(path), str(path))


def read_yaml(path: str | Path) -> Any:
    """What a YAML file in UTF-8 holds.

    Raises:
        ValueError: it is malformed; the message names it.
        OSError: it cannot be read.
    """
    import yaml

    text = read_text(path)
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date that does not exist
        raise ValueError(f"{path}: not a YAML file: {' '.join(str(error).split())}") from error


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twin = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twin!r} comes twice in one object")
    return values


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number in JSON")


# ------------------------------------------------------------------------------------------ what they hold


def field(entry: Any, name: str, where: str) -> Any:
    """A value of an object in a file.

    Raises:
        ValueError: it is not an object, or has no such value.
    """
    if not isinstance(entry, dict) or name not in entry:
        raise ValueError(f'{where}: no "{name}": {entry!r:.100}')
    return entry[name]


def caption_text(value: Any, where: str, name: str = "caption") -> str:
    """A caption as a file holds it.

    Args:
        value: what the file holds.
        where: its place, for the error.
        name: what the value is called there.

    Raises:
        ValueError: it is not a text, or holds half a character, which no file in UTF-8 can hold.
    """
    if not isinstance(value, str):
        raise ValueError(f'{where}: "{name}" is {value!r:.100}; a text is expected')
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{where}: the {name} {value!r:.100} holds half a character, {value[error.start]!r}: "
            "it was cut in the middle of an emoji, say; take the half out"
        ) from None
    return value


def item_id(value: Any, where: str, kind: str = "image") -> ItemId:
    """An id as a file holds it: a whole number (1.0 is 1) or a text.

    Args:
        value: what the file holds.
        where: its place, for the error.
        kind: what the id is of, for the error.

    Raises:
        ValueError: it is neither.
    """
    if type(value) is int:  # most are
        return value
    if isinstance(value, float) and abs(value) <= LARGEST_EXACT and value == int(value):
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int | str) or value == "":
        raise ValueError(f"{where}: {kind} id {value!r:.100}; a whole number or a text is expected")
    return value


class Ids:
    """The ids in a file. A number and its text, 1 and "1", are not two ids.

    Args:
        kind: what the ids are of, for errors.
        entry: what only one may be of each id, for errors; by default "image with the id".
    """

    def __init__(self, kind: str = "image", entry: str | None = None) -> None:
        self.kind = kind
        self.entry = entry or f"{kind} with the id"
        self._places: dict[str, tuple[ItemId, str]] = {}

    def add(self, value: Any, where: str) -> ItemId:
        """The id of an entry, see `item_id`.

        Raises:
            ValueError: it is no id, or an earlier entry's.
        """
        found = item_id(value, where, self.kind)
        other, place = self._places.setdefault(str(found), (found, where))
        if place is not where:
            alike = "" if other == found else f", which counts as {other!r}"
            raise ValueError(f"{where}: a second {self.entry} {found!r}{alike}; the first: {place}")
        return found

    def refer(self, value: Any, where: str, is_complete: bool) -> ItemId:
        """An id that refers to an entry.

        Args:
            value: what the file holds.
            where: its place, for the error.
            is_complete: whether all ids have been added; else one that is new is added.

        Raises:
            ValueError: it is no id, or refers to no entry.
        """
        found = item_id(value, where, self.kind)
        if not is_complete:
            self._places.setdefault(str(found), (found, where))
        other, _ = self._places.get(str(found), (None, ""))
        if other != found:
            alike = "" if other is None else f", and {other!r} is: write both as numbers, or both as texts"
            raise ValueError(f"{where}: {self.kind} id {found!r} is not among the {self.kind}s{alike}")
        return found


class CocoFile(NamedTuple):
    """A file of captions in COCO's format, its entries checked and put together.

    Attributes:
        images: the entries of "images" by id, in their order; empty without that list.
        captions: the captions by image, in the order of the images; none for some. Without outer white space, and
            without empty ones.
    """

    images: dict[ItemId, dict[str, Any]]
    captions: dict[ItemId, list[str]]


def read_coco(path: str | Path, required: str) -> CocoFile:
    """Read a JSON file of captions in COCO's format.

    Args:
        path: the file.
        required: the list that it must have: "images" or "annotations".

    Raises:
        OSError: it cannot be read.
        ValueError: it is not of that format, two images have one id, or an annotation is of none; the message names
            the file and the entry.
    """
    path = str(path)
    content = read_json(path)
    if not isinstance(content, dict) or required not in content:
        raise ValueError(f'{path}: not a COCO captions file: an object with a list "{required}" is expected')
    for name in ("images", "annotations"):
        if not isinstance(content.get(name, []), list):
            raise ValueError(f'{path}: not a COCO captions file: "{name}" is not a list')
    ids = Ids()
    images: dict[ItemId, dict[str, Any]] = {}
    for number, image in enumerate(content.get("images", [])):
        where = f"{path}: images[{number}]"
        images[ids.add(field(image, "id", where), where)] = image
    captions: dict[ItemId, list[str]] = {image_id: [] for image_id in images}
    for number, annotation in enumerate(content.get("annotations", [])):
        where = f"{path}: annotations[{number}]"
        image_id = ids.refer(field(annotation, "image_id", where), where, is_complete="images" in content)
        caption = caption_text(field(annotation, "caption", where), where).strip()
        captions.setdefault(image_id, []).extend([caption] if caption else [])
    return CocoFile(images, captions)
