"""Flickr8k's own files."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from captioner.data.readers.base import Reader, require_there
from captioner.data.readers.parsing import cleaned
from captioner.texts import numbered_lines
from captioner.types import CaptionedImage

FLICKR8K_IMAGES = "Flicker8k_Dataset"  # sic: the authors' own spelling
FLICKR8K_TEXT = "Flickr8k_text"


@dataclass(frozen=True)
class Flickr8k(Reader):
    """Flickr8k in its official files (Hodosh, Young and Hockenmaier 2013).

    `Flicker8k_Dataset/` holds the images; `Flickr8k.token.txt` and the lists
    `Flickr_8k.{train,dev,test}Images.txt` lie in `Flickr8k_text/` or beside it. The splits are those whose
    list is there.

    Attributes:
        root: the folder that holds `Flicker8k_Dataset`.
    """

    root: str | Path
    layouts: ClassVar[tuple[str, ...]] = (
        f"Flickr8k: {FLICKR8K_IMAGES}/ and {FLICKR8K_TEXT}/ (Flickr8k.token.txt, Flickr_8k.trainImages.txt, ...)",
    )

    @classmethod
    def find(cls, root: Path) -> Reader | None:
        """See `Reader.find`."""
        reader = cls(str(root))
        return reader if (root / FLICKR8K_IMAGES).is_dir() and reader._lists() else None

    @property
    def splits(self) -> tuple[str, ...]:
        """Those of train, dev and test whose list is there.

        Raises:
            FileNotFoundError: there is no such folder, or no list in it.
        """
        require_there(self.root, "root")
        if not self._lists():
            raise FileNotFoundError(
                f"{self._list_of('train')}: no such file, nor a list of dev or test images beside it"
            )
        return self._lists()

    def items(self, split: str) -> list[CaptionedImage]:
        """The listed images; captions of images in no list (the official file has some) are left out."""
        captions: dict[str, list[str]] = {}
        for where, line in numbered_lines(self._text_folder() / "Flickr8k.token.txt"):
            match = re.fullmatch(r"(.+)#\d+\t(.*)", line)
            if match is None:
                raise ValueError(f"{where}: not of the form 'image.jpg#0<tab>caption': {line[:80]!r}")
            captions.setdefault(match[1], []).append(match[2])
        names = dict.fromkeys(line.strip() for _, line in numbered_lines(self._list_of(split)))
        folder = Path(self.root) / FLICKR8K_IMAGES
        return [CaptionedImage(name, folder / name, cleaned(captions.get(name, []))) for name in names]

    def _lists(self) -> tuple[str, ...]:
        return tuple(split for split in ("train", "dev", "test") if self._list_of(split).is_file())

    def _list_of(self, split: str) -> Path:
        return self._text_folder() / f"Flickr_8k.{split}Images.txt"

    def _text_folder(self) -> Path:
        folder = Path(self.root) / FLICKR8K_TEXT
        return folder if folder.is_dir() else Path(self.root)
