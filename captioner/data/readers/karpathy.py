"""Karpathy's splits of Flickr8k, Flickr30k and COCO."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from captioner.data.readers.base import Reader, require_there
from captioner.data.readers.parsing import cleaned, file_name, folder_holding
from captioner.texts import Ids, caption_text, field, read_json
from captioner.types import CaptionedImage


@dataclass(frozen=True)
class KarpathySplit(Reader):
    """Karpathy's split of Flickr8k, Flickr30k or COCO: `dataset_{flickr8k,flickr30k,coco}.json`.

    Attributes:
        annotations: the JSON file.
        images: the folder of the images; COCO's have their own `train2014` and `val2014` within it.
        restval: whether "train" takes in "restval", the part of COCO's validation images that is in neither
            "val" nor "test", as is the custom; else it is a split of its own.
    """

    annotations: str | Path
    images: str | Path
    restval: bool = True
    layouts: ClassVar[tuple[str, ...]] = (
        "Karpathy's split: dataset_NAME.json, and the images beside it or in a folder beside it",
    )

    @classmethod
    def find(cls, root: Path) -> Reader | None:
        """See `Reader.find`."""
        for path in sorted(root.glob("dataset_*.json")):  # Karpathy's archive holds three of them
            folder = folder_holding(root, (_karpathy_file(entry, where) for where, entry in _entries(path)))
            if folder is not None:
                return cls(str(path), str(folder))
        return None

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits of the format."""
        return ("train", "val", "test") if self.restval else ("train", "val", "test", "restval")

    def items(self, split: str) -> list[CaptionedImage]:
        """The images of a split, by COCO's integer ids where there are any, else by file name."""
        wanted = {"train", "restval"} if split == "train" and self.restval else {split}
        folder, ids = Path(self.images), Ids()
        items = []
        for where, entry in _entries(require_there(self.annotations, "annotations")):
            name = file_name(entry, "filename", where)
            image_id = ids.add(entry.get("cocoid", name), where)
            if str(field(entry, "split", where)) in wanted:
                sentences = field(entry, "sentences", where)
                if not isinstance(sentences, list):
                    raise ValueError(f'{where}: "sentences" is not a list')
                captions = cleaned(caption_text(field(sentence, "raw", where), where) for sentence in sentences)
                items.append(CaptionedImage(image_id, folder / _karpathy_file(entry, where), captions))
        return items


def _entries(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The images of a file in Karpathy's format, each with its place for errors."""
    images = field(read_json(path), "images", str(path))
    if not isinstance(images, list) or not images:
        raise ValueError(f'{path}: not in Karpathy\'s format: a list of "images" is expected')
    for number, entry in enumerate(images):
        yield f"{path}: images[{number}]", entry


def _karpathy_file(entry: dict[str, Any], where: str) -> str:
    """An image's file within the images' folder: COCO's entries name a folder too."""
    name = file_name(entry, "filename", where)
    return str(Path(file_name(entry, "filepath", where), name)) if entry.get("filepath") else name
