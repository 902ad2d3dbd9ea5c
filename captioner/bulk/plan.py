"""The plan: which images are in which chunk, and what decides their captions; the first run writes it, all read it."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from captioner.bulk.work import KINDS, ImageList, Work, place
from captioner.data.shards import is_remote
from captioner.decoding import Search
from captioner.files import whole_file
from captioner.predictors import Precision, Wording

PLAN = "_plan.jsonl"
PLAN_VERSION = 1
WORKSHOP = ".run"  # holds half-written chunks, and the lock of the run that is at work


@dataclass(frozen=True)
class Job:
    """How images are captioned, and how the captions are stored: all that a worker needs to know.

    Attributes:
        model: the model's file, which every machine finds there.
        search: how to search.
        wording: what captions must obey.
        num_best: captions of each image.
        format: of the chunks: "parquet" or "jsonl".
        batch_size: images that go through the model together.
        device: "auto" (a GPU where there is one), or what `torch.device` takes.
        trust: packages beside this one whose parts the model may use.
        cache: a feature cache to read in place of running the encoder.
        regions: a file of region features to read likewise.
        precision: number format of products, see `Captioner`.
    """

    model: str
    search: Search
    wording: Wording
    num_best: int = 1
    format: str = "parquet"
    batch_size: int = 32
    device: str = "auto"
    trust: tuple[str, ...] = ()
    cache: str | None = None
    regions: str | None = None
    precision: Precision = "fp32"

    def settings(self) -> dict[str, Any]:
        """What decides the rows, as JSON values; the model by the SHA-256 of its file.

        Raises:
            ValueError: there is no such file.
        """
        try:
            with open(self.model, "rb") as file:
                digest = hashlib.sha256(file.read()).hexdigest()
        except OSError as error:
            raise ValueError(f"{self.model}: no such model file, or it cannot be read") from error
        settings = {
            "model": digest,
            "search": repr(self.search),
            **asdict(self.wording),
            "num_best": self.num_best,
            "format": self.format,
            "cache": self.cache,
            "regions": self.regions,
            "precision": self.precision,
        }
        return json.loads(json.dumps(settings))


class PlannedChunk(NamedTuple):
    """A chunk in the plan.

    Attributes:
        number: of the chunk.
        offset: where its line begins in the plan's file.
        size: how many images it is of; 1 for a shard, of which that is not known.
        again: whether it is captioned although it is done.
    """

    number: int
    offset: int
    size: int
    again: bool = False


class PlanError(ValueError):
    """An output folder that was begun in another way."""


class Plan:
    """An output folder's plan. Of it only where its lines begin is kept in memory.

    Args:
        folder: the output folder.

    Raises:
        FileNotFoundError: nothing was planned there yet.
        PlanError: the plan is not one, or of a later version.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).absolute()
        self.workshop = self.folder / WORKSHOP
        with open(self.folder / PLAN, "rb") as file:
            try:
                head = json.loads(file.readline())
                version, self.root, self.settings = head["version"], head["root"], head["settings"]
            except (ValueError, KeyError, TypeError) as error:
                raise PlanError(f"{self.folder / PLAN}: not a plan of bulk captioning, or damaged") from error
            if version > PLAN_VERSION:
                raise PlanError(f"{self.folder / PLAN}: of a later version of captioner")
            self.chunks = []
            offset = file.tell()
            for number, line in enumerate(file):
                self.chunks.append(PlannedChunk(number, offset, _work(line).sizes.total()))
                offset += len(line)

    @classmethod
    def make(cls, folder: str | Path, settings: dict[str, Any], work: Iterable[Work]) -> Plan:
        """Write a plan; paths in it start at the current folder, wherever later runs are started."""
        output = Path(folder)
        head = {"version": PLAN_VERSION, "root": os.getcwd(), "settings": settings}
        lines = ({type(chunk).__name__: asdict(chunk)} for chunk in work)
        with whole_file(output / PLAN, output / WORKSHOP) as file:
            file.writelines(json.dumps(line).encode() + b"\n" for line in chain([head], lines))
        return cls(folder)

    def __getstate__(self) -> dict[str, Any]:
        """What workers are sent of it: they are told which chunks to do, and there may be millions."""
        return {**self.__dict__, "chunks": []}

    def require(self, settings: dict[str, Any]) -> None:
        """Make sure that a run would write the same rows as those before it.

        Raises:
            PlanError: it would not; says in what they differ.
        """
        different = [
            f"{name} was {self.settings.get(name)!r} and is {settings.get(name)!r} now"
            for name in {**self.settings, **settings}
            if self.settings.get(name) != settings.get(name)
        ]
        if different:
            raise PlanError(
                f"{self.folder}: begun with other settings: {'; '.join(different)}. "
                "Give the same again, or another output folder"
            )

    def work(self) -> Iterator[Work]:
        """What the chunks are made of, in order."""
        return (self.read(chunk.offset) for chunk in self.chunks)

    def read(self, offset: int) -> Work:
        """What the chunk is made of whose line begins at this place."""
        with open(self.folder / PLAN, "rb") as file:
            file.seek(offset)
            return _work(file.readline())

    def path(self, number: int) -> Path:
        """The file of a chunk."""
        return self.folder / f"part-{number:06d}.{self.settings['format']}"

    def num_new(self, work: Iterable[Work]) -> int:
        """How many images of this work are not in the plan; of a shard that is not, one is counted."""
        return (_sizes(os.getcwd(), work) - _sizes(self.root, self.work())).total()

    def sweep(self) -> None:
        """Remove what this run and killed ones left; only while no other is at work."""
        for left in self.workshop.glob("*-*"):
            left.unlink()


def _work(line: bytes) -> Work:
    """A line of the plan."""
    ((kind, fields),) = json.loads(line).items()
    return ImageList(tuple(fields["images"])) if kind == ImageList.__name__ else KINDS[kind](**fields)


def _sizes(root: str, work: Iterable[Work]) -> Counter[str]:
    """How many images each file holds that is named in this work."""
    sizes: Counter[str] = Counter()
    for chunk in work:
        for name, size in chunk.sizes.items():
            sizes[name if is_remote(name) else os.path.normpath(place(root, name))] += size
    return sizes
