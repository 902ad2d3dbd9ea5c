"""COCO's caption files: the references (annotations) and the results of a captioner, JSON in UTF-8."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from captioner.files import write_whole

ImageId = int | str
"""COCO's ids are integers; data sets without ids of their own use the file's name."""


def read_references(path: str | Path) -> dict[ImageId, list[str]]:
    """The reference captions of each image in a COCO captions JSON, in the order of its images.

    Images without a caption are left out.

    Raises:
        OSError: when the file cannot be read.
        ValueError: when it is not COCO's format; the message names the file and the entry.
    """
    content = _read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("annotations"), list):
        raise ValueError(f'{path}: not a COCO captions file: an object with a list "annotations" is expected')
    images = content.get("images", [])
    if not isinstance(images, list):
        raise ValueError(f'{path}: "images" is not a list')
    references: dict[ImageId, list[str]] = {}
    for number, image in enumerate(images):
        entry = f"{path}: images[{number}]"
        references[_image_id(_value(image, "id", entry), entry)] = []
    for number, annotation in enumerate(content["annotations"]):
        image_id, caption = _captioned(annotation, f"{path}: annotations[{number}]")
        references.setdefault(image_id, []).append(caption)
    return {image_id: captions for image_id, captions in references.items() if captions}


def read_results(path: str | Path) -> dict[ImageId, str]:
    """The captions in a results file of the COCO server's format: [{"image_id": 1, "caption": "..."}].

    Raises:
        OSError: when the file cannot be read.
        ValueError: when it is not that format, or names an image twice; the message names file and entry.
    """
    content = _read_json(path)
    if not isinstance(content, list):
        raise ValueError(f'{path}: not a COCO results file: a list of {{"image_id", "caption"}} is expected')
    results: dict[ImageId, str] = {}
    for number, result in enumerate(content):
        image_id, caption = _captioned(result, f"{path}: entry {number}")
        if image_id in results:
            raise ValueError(f"{path}: entry {number}: a second caption for image {image_id!r}")
        results[image_id] = caption
    return results


def write_results(path: str | Path, captions: Mapping[ImageId, str]) -> None:
    """Write captions by image as the COCO server takes them; `read_results` reads them back."""
    results = [{"image_id": image_id, "caption": caption} for image_id, caption in captions.items()]
    text = json.dumps(results, ensure_ascii=False, separators=(",", ":"))
    write_whole(path, text + "\n")


def _read_json(path: str | Path) -> Any:
    try:
        return json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except ValueError as error:  # JSON's and UTF-8's errors alike
        raise ValueError(f"{path}: not a JSON file in UTF-8: {error}") from error


def _captioned(entry: Any, where: str) -> tuple[ImageId, str]:
    image_id = _image_id(_value(entry, "image_id", where), where)
    caption = _value(entry, "caption", where)
    if not isinstance(caption, str):
        raise ValueError(f'{where}: "caption" is {caption!r}; text is expected')
    return image_id, caption


def _value(entry: Any, key: str, where: str) -> Any:
    if not isinstance(entry, dict) or key not in entry:
        raise ValueError(f'{where}: no "{key}": {entry!r:.100}')
    return entry[key]


def _image_id(value: Any, where: str) -> ImageId:
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise ValueError(f"{where}: image id {value!r}; an integer or a text is expected")
    return value
