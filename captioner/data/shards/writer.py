"""Packing the images of a data set into shards."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path

from captioner.data.images import HEAD, is_image, suffix_of, unread
from captioner.data.shards.index import index_place, index_shard
from captioner.data.shards.marks import mark, mark_of, shards_of
from captioner.data.shards.notes import read_notes
from captioner.data.shards.tar import reason_of
from captioner.files import held, kept, whole_file
from captioner.progress import progress_bar
from captioner.types import CaptionedImage, ImageError


def write_shards(
    items: Iterable[CaptionedImage], folder: str | Path, name: str, max_bytes: int = 256_000_000
) -> tuple[list[Path], list[ImageError]]:
    """Pack the images of a data set into shards, with their indices; the same images make the same bytes.

    Until all are packed a file `NAME.unfinished` lies beside the shards, and they are not read. If it is there from a
    process that was stopped, its shards are removed and packed anew.

    Args:
        items: the images; their files are packed as they are.
        folder: of the shards; made where it is missing.
        name: of the split: shards are called `NAME-000000.tar` and so on.
        max_bytes: images of a shard, in bytes; one that is larger has a shard of its own.

    Returns:
        The shards, and one error for each image that cannot be read, now or from its shard; all others are in.

    Raises:
        ValueError: the folder holds shards of this name that are finished.
        LockedError: another process is packing shards of this name there.
        OSError: there is no room, or the folder cannot be written to.
    """
    folder = Path(folder)
    items = list(items)
    with held(folder / name), kept(folder) as check:
        there = shards_of(folder, name)
        if there and not mark_of(folder, name).exists():
            raise ValueError(f"{there[0]} is there already: choose another folder, or delete the shards of this name")
        own = mark(folder, name)
        for shard in there:
            Path(index_place(str(shard))).unlink(missing_ok=True)
            shard.unlink()
        shards, problems = _write(items, folder, name, max_bytes, check)
        own.unlink(missing_ok=True)
    return shards, problems


def _write(
    items: list[CaptionedImage], folder: Path, name: str, max_bytes: int, check: Callable[[], None]
) -> tuple[list[Path], list[ImageError]]:
    problems: list[ImageError] = []
    with progress_bar("packing", len(items)) as bar, _Writer(folder, name, max_bytes, check) as writer:
        for item in items:
            try:
                writer.add(item)
            except ImageError as error:
                problems.append(error)
            bar.advance()
    return writer.shards, problems + writer.problems


class _Writer:
    """Fills shard after shard; each appears when it is whole."""

    def __init__(self, folder: Path, name: str, max_bytes: int, check: Callable[[], None]) -> None:
        self.folder = folder
        self.name = name
        self.max_bytes = max_bytes
        self.check = check  # that the folder is there, which would be made anew for the shards to come
        self.num_images = 0
        self.num_bytes = 0  # in the shard that is open
        self.shards: list[Path] = []
        self.problems: list[ImageError] = []  # of files that their shard's index leaves out
        self.archive: tarfile.TarFile | None = None
        self.opened = ExitStack()  # what is open of a shard

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        if kind is None:
            self._finish()
        self.opened.__exit__(kind, *exception)  # type: ignore[arg-type]

    def add(self, item: CaptionedImage) -> None:
        """Add an image with its captions.

        Raises:
            ImageError: it cannot be read, or is no image, or its id or its captions could not be read again.
        """
        try:
            data = item.path.read_bytes()
        except OSError as error:
            raise ImageError(str(item.path), reason_of(error)) from error
        if not is_image(item.path.name, lambda: data[:HEAD]):
            raise ImageError(str(item.path), "not an image, by its name and its first bytes")
        if (reason := unread(item.path.name, data[:HEAD])) is not None:
            raise ImageError(str(item.path), reason)
        suffix = suffix_of(item.path.name)
        notes = {"image_id": item.image_id, "captions": list(item.captions), "file_name": item.path.name}
        text = json.dumps(notes).encode()
        if trouble := read_notes(text, is_json=True, where=str(item.path)).trouble:
            raise ImageError(str(item.path), trouble)
        if self.num_bytes + len(data) > self.max_bytes:
            self._finish()
        if self.archive is None:
            self.check()
            file = self.opened.enter_context(whole_file(self._path()))
            self.archive = self.opened.enter_context(tarfile.TarFile(fileobj=file, mode="w"))
        for ending, content in ((suffix, data), (".json", text)):
            member = tarfile.TarInfo(f"{self.num_images:09d}{ending}")
            member.size = len(content)
            self.archive.addfile(member, io.BytesIO(content))
        self.num_images += 1
        self.num_bytes += len(data)

    def _finish(self) -> None:
        if self.archive is None:
            return
        self.opened.close()
        self.problems += index_shard(str(self._path()))[1]
        self.shards.append(self._path())
        self.archive, self.num_bytes = None, 0

    def _path(self) -> Path:
        """Of the shard that is open, or the next."""
        return self.folder / f"{self.name}-{len(self.shards):06d}.tar"
