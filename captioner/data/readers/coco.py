"""Captions in COCO's format."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from captioner.data.readers.base import Reader, require_there
from captioner.data.readers.parsing import file_name
from captioner.texts import read_coco
from captioner.types import CaptionedImage


@dataclass(frozen=True)
class CocoCaptions(Reader):
    """Captions in COCO's JSON format, see `captioner.texts.read_coco`.

    Attributes:
        annotations: for each split, its JSON file ({"train": "annotations/captions_train2017.json", ...}).
        images: for each split, the folder of its images ({"train": "train2017", ...}).
    """

    annotations: dict[str, str]
    images: dict[str, str]
    layouts: ClassVar[tuple[str, ...]] = (
        "COCO: annotations/captions_NAME.json and the images in NAME/ or images/NAME/ (as train2017, val2017)",
        "COCO in small: captions.json and images/",
    )

    @classmethod
    def find(cls, root: Path) -> Reader | None:
        """See `Reader.find`."""
        annotations, images = {}, {}
        for path in sorted(root.glob("annotations/captions_*.json")):
            name = path.stem.removeprefix("captions_")
            for folder in (root / name, root / "images" / name):
                if folder.is_dir():
                    annotations[name], images[name] = str(path), str(folder)
                    break
        short = {name: re.sub(r"20\d\d$", "", name) for name in annotations}  # train2017 -> train
        if len(set(short.values())) < len(short):
            short = {name: name for name in annotations}  # two years in one folder: their full names
        if annotations:
            return cls(
                annotations={short[name]: path for name, path in annotations.items()},
                images={short[name]: path for name, path in images.items()},
            )
        if (root / "captions.json").is_file() and (root / "images").is_dir():
            return cls({"all": str(root / "captions.json")}, {"all": str(root / "images")})
        return None

    def __post_init__(self) -> None:
        if set(self.annotations) != set(self.images):
            both = f"{list(self.annotations)} and {list(self.images)}"
            raise ValueError(f"annotations and images must name the same splits, not {both}")

    @property
    def splits(self) -> tuple[str, ...]:
        """The keys of `annotations`."""
        return tuple(self.annotations)

    def items(self, split: str) -> list[CaptionedImage]:
        """The images of a split by their ids, COCO's integers; none has captions in a file without annotations."""
        path, folder = require_there(self.annotations[split], "annotations"), Path(self.images[split])
        coco = read_coco(path, required="images")
        items = []
        for number, (image_id, image) in enumerate(coco.images.items()):
            name = file_name(image, "file_name", f"{path}: images[{number}]")
            items.append(CaptionedImage(image_id, folder / name, tuple(coco.captions[image_id])))
        return items
