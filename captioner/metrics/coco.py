"""COCO's caption files: the references (annotations) and the results of a captioner, JSON in UTF-8."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from captioner.files import write_whole
from captioner.texts import Ids, ItemId, caption_text, field, read_coco, read_json


def read_references(path: str | Path) -> dict[ItemId, list[str]]:
    """The reference captions of each image in a COCO captions JSON, in the order of its images.

    Images without a caption are left out; so are captions without a character.

    Raises:
        OSError: when the file cannot be read.
        ValueError: when it is not COCO's format; the message names the file and the entry. See `read_coco`.
    """
    captions = read_coco(path, required="annotations").captions
    return {image_id: of_image for image_id, of_image in captions.items() if of_image}


def read_results(path: str | Path) -> dict[ItemId, str]:
    """The captions in a results file of the COCO server's format: [{"image_id": 1, "caption": "..."}].

    Raises:
        OSError: when the file cannot be read.
        ValueError: when it is not that format, or names an image twice; the message names file and entry.
    """
    content = read_json(path)
    if not isinstance(content, list):
        raise ValueError(f'{path}: not a COCO results file: a list of {{"image_id", "caption"}} is expected')
    ids = Ids(entry="caption for image")
    results: dict[ItemId, str] = {}
    for number, result in enumerate(content):
        where = f"{path}: entry {number}"
        image_id = ids.add(field(result, "image_id", where), where)
        results[image_id] = caption_text(field(result, "caption", where), where)
    return results


def write_results(path: str | Path, captions: Mapping[ItemId, str]) -> None:
    """Write captions by image as the COCO server takes them; `read_results` reads them back."""
    results = [{"image_id": image_id, "caption": caption} for image_id, caption in captions.items()]
    text = json.dumps(results, ensure_ascii=False, separators=(",", ":"))
    write_whole(path, text + "\n")
