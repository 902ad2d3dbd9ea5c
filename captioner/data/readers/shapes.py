"""Pictures of coloured shapes with captions, drawn on the spot: a data set that fits in seconds.

For the tiny config and the tests: nothing is downloaded, and a model that works learns it quickly.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw

from captioner.data.readers.base import Reader
from captioner.files import whole_file
from captioner.seeds import stable_seed
from captioner.types import CaptionedImage

COLOURS = {
    "red": (214, 39, 40),
    "green": (44, 160, 44),
    "blue": (31, 99, 214),
    "yellow": (240, 210, 20),
    "purple": (148, 60, 189),
    "black": (20, 20, 20),
}

SHAPES = ("circle", "square", "triangle")
RELATIONS = {"above": "below", "below": "above", "left of": "right of", "right of": "left of"}
"""Where the first shape is, and where that puts the second."""

OFFSETS = {"above": (0, -1), "below": (0, 1), "left of": (-1, 0), "right of": (1, 0)}


@dataclass(frozen=True)
class SyntheticShapes(Reader):
    """Two coloured shapes a picture, three captions each ("a red circle above a blue square").

    The pictures are drawn when a split is read, those that are there already are kept. The same arguments
    give the same pictures, byte for byte under one version of Pillow.

    Attributes:
        root: the folder to draw into.
        num_train: pictures of the split "train".
        num_dev: pictures of the split "dev".
        size: side of the pictures in pixels.
        seed: what is drawn.
    """

    root: str | Path
    num_train: int = 64
    num_dev: int = 16
    size: int = 64
    seed: int = 0

    @property
    def splits(self) -> tuple[str, ...]:
        """The names "train" and "dev"."""
        return ("train", "dev")

    def items(self, split: str) -> list[CaptionedImage]:
        """Draw what is missing of a split."""
        folder = Path(self.root) / f"{split}_{self.size}_{self.seed}"
        folder.mkdir(parents=True, exist_ok=True)
        num_images = self.num_train if split == "train" else self.num_dev
        return [self._item(folder, split, index) for index in range(num_images)]

    def _item(self, folder: Path, split: str, index: int) -> CaptionedImage:
        rng = random.Random(stable_seed("shapes", self.seed, split, index))
        colours, shapes = rng.sample(list(COLOURS), 2), rng.choices(SHAPES, k=2)
        relation = rng.choice(list(RELATIONS))
        first, second = (f"{colour} {shape}" for colour, shape in zip(colours, shapes, strict=True))
        path = folder / f"{index:05d}.png"
        if not path.is_file():
            with whole_file(path) as file:  # several processes may draw at once
                self._draw(colours, shapes, relation, rng).save(file, format="PNG")
        captions = (
            f"a {first} {relation} a {second}",
            f"a {second} {RELATIONS[relation]} a {first}",
            f"there is a {first} {relation} a {second}",
        )
        return CaptionedImage(f"{split}/{path.name}", path, captions)

    def _draw(self, colours: list[str], shapes: list[str], relation: str, rng: random.Random) -> Image.Image:
        grey = rng.randint(200, 255)
        picture = Image.new("RGB", (self.size, self.size), (grey, grey, grey))
        pen = ImageDraw.Draw(picture)
        right, down = OFFSETS[relation]
        for colour, shape, sign in zip(colours, shapes, (1, -1), strict=True):
            x = self.size * (0.5 + 0.25 * sign * right + rng.uniform(-0.04, 0.04))
            y = self.size * (0.5 + 0.25 * sign * down + rng.uniform(-0.04, 0.04))
            radius = self.size * rng.uniform(0.14, 0.19)
            box = (x - radius, y - radius, x + radius, y + radius)
            if shape == "circle":
                pen.ellipse(box, fill=COLOURS[colour])
            elif shape == "square":
                pen.rectangle(box, fill=COLOURS[colour])
            else:
                corners = [(x, y - radius), (x - radius, y + radius), (x + radius, y + radius)]
                pen.polygon(corners, fill=COLOURS[colour])
        return picture
