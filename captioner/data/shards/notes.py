"""What the text files in a shard say of their images: captions, and an id."""

from __future__ import annotations

from typing import Any, NamedTuple

from captioner.texts import ItemId, caption_text, item_id, parse_json


class Notes(NamedTuple):
    """What the text file of a sample says; all that is kept of it.

    Attributes:
        captions: without outer white space, and without empty ones.
        image_id: of a JSON file, where it has one.
        trouble: why the file makes no sense; empty if it does.
    """

    captions: list[str]
    image_id: ItemId | None = None
    trouble: str = ""


def read_notes(text: bytes, is_json: bool, where: str) -> Notes:
    """The notes in a text file; JSON, ids and captions are those of all readers, see `captioner.texts`.

    JSON that is no object says nothing, nor do its other fields, and null is a field that is not there.

    Args:
        text: what the file holds.
        is_json: whether it is JSON; else each line is a caption.
        where: its place, for errors.
    """
    try:
        decoded = text.decode("utf-8-sig")
        return _of_json(decoded, where) if is_json else Notes(_written(decoded.splitlines()))
    except UnicodeDecodeError as error:
        return Notes([], trouble=f"not UTF-8 text ({error.reason} at byte {error.start}): save it in UTF-8")
    except ValueError as error:
        return Notes([], trouble=str(error).removeprefix(f"{where}: "))


def _of_json(text: str, where: str) -> Notes:
    found = parse_json(text, where, not_numbers=True)
    if not isinstance(found, dict):
        return Notes([])
    name = "caption" if found.get("captions") in (None, "", []) else "captions"
    captions = _captions(found.get(name), where, name)
    image_id = found.get("image_id")
    return Notes(captions, None if image_id is None else item_id(image_id, where))


def _captions(value: Any, where: str, name: str) -> list[str]:
    """The captions in a field: a text, or a list of texts."""
    if value is None:
        return []
    if isinstance(value, str):
        return _written([caption_text(value, where, name)])
    if not isinstance(value, list):
        raise ValueError(f'{where}: "{name}" is {value!r:.100}; a text or a list of texts is expected')
    return _written([caption_text(caption, where, f"{name}[{number}]") for number, caption in enumerate(value)])


def _written(captions: list[str]) -> list[str]:
    """The captions that say something."""
    stripped = [caption.strip() for caption in captions]
    return [caption for caption in stripped if caption]
