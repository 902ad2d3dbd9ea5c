"""Karpathy's splits of Flickr8k, Flickr30k and COCO."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from captioner.data.readers.base import Reader
from captioner.data.readers.parsing import cleaned, expecting, folder_holding, load_json
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
            with expecting("Karpathy's format", path):
                folder = folder_holding(root, _karpathy_file(load_json(path)["images"][0]))
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
        path, folder = Path(self.annotations), Path(self.images)
        items = []
        with expecting("Karpathy's format", path):
            for entry in load_json(path)["images"]:
                if entry["split"] in wanted:
                    image_id = entry.get("cocoid", entry["filename"])
                    captions = cleaned(sentence["raw"] for sentence in entry["sentences"])
                    items.append(CaptionedImage(image_id, folder / _karpathy_file(entry), captions))
        return items


def _karpathy_file(entry: dict[str, Any]) -> str:
    """An image's file within the images' folder: COCO's entries name a folder too."""
    return str(Path(entry.get("filepath", ""), entry["filename"]))
