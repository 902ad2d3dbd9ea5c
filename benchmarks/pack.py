"""`python benchmarks/pack.py`: data sets as one small zip of square photos, to carry to a machine that has none.

    python benchmarks/pack.py --data data/flickr8k --data data/everyday --output photos.zip --max-mb 36

`unpack` makes a data set of it again, for `benchmarks/short_training.py`, say.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import random
import re
import statistics
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the package's folder is not there when this file is run

from captioner.cli.arguments.photos import positive, report
from captioner.data.images import ImageTransform
from captioner.data.readers import KarpathySplit, Reader, read_data
from captioner.data.readers.base import VALIDATION_NAMES
from captioner.files import in_threads, whole_file, write_whole
from captioner.seeds import stable_seed
from captioner.types import CaptionedImage, ImageError

ANNOTATIONS = "dataset_packed.json"
IMAGES = "images"
SPLITS = {"train": ("train",), "val": VALIDATION_NAMES}  # as Karpathy's format has them; what data sets call them
LOWEST, HIGHEST = 5, 95  # qualities of WebP
SAMPLE = 256  # photos that the quality is found on
DEVIATIONS = 2.0  # of the sample's mean, by which the file may turn out larger than the sample says
MAX_MB = 1000
PHOTO_NAME = re.compile(rf"{IMAGES}/[0-9]{{6,9}}\.webp")
MAX_PHOTO_BYTES = 10_000_000
ENTRY_BYTES = 30 + 46  # of a file in a zip, before it and in the list at the end, without its name
DATE = (1980, 1, 1, 0, 0, 0)  # of all files in a zip, so that the same photos give the same bytes


@dataclass(frozen=True)
class Packed:
    """What was written.

    Attributes:
        num_photos: photos of each split, by its name in the file.
        side: of the photos, in pixels.
        quality: of WebP, 0 to 100.
        num_bytes: of the zip.
        problems: photos that were left out because they cannot be read.
    """

    num_photos: dict[str, int]
    side: int
    quality: int
    num_bytes: int
    problems: tuple[ImageError, ...]

    def __str__(self) -> str:
        photos = " and ".join(f"{number:,} photos of {split}" for split, number in self.num_photos.items())
        return f"{photos}, {self.side} x {self.side} pixels, quality {self.quality}, {self.num_bytes:,} bytes"


# ------------------------------------------------------------------------------------------ packing


def pack(
    readers: Sequence[Reader],
    path: str | Path,
    side: int = 224,
    max_mb: float = 36.0,
    num_train: int | None = None,
    num_dev: int | None = None,
    seed: int = 0,
) -> Packed:
    """Write the training and validation photos of data sets, with their captions, into one zip.

    The photos are squashed to a square and stored as WebP, with the highest quality at which the zip is small enough.
    The same data give the same bytes (under one version of Pillow). Photos without captions are left out.

    Args:
        readers: the data sets; one that lacks a split has nothing in it.
        path: the zip, replaced whole or not at all.
        side: of the photos, in pixels.
        max_mb: the most that the zip may hold, in millions of bytes.
        num_train: training photos to draw of all data sets together; all by default.
        num_dev: validation photos, likewise.
        seed: of that draw.

    Raises:
        ValueError: a split is empty, or the photos do not fit.
        FileNotFoundError: see `Reader.read`.
    """
    if not 0 < max_mb <= MAX_MB:
        raise ValueError(f"max_mb must be more than 0 and at most {MAX_MB:,}, not {max_mb}")
    drawn = {
        split: _draw(_items(readers, split), split, number, seed)
        for split, number in (("train", num_train), ("val", num_dev))
    }
    items = [item for split in drawn.values() for item in split]
    room = max_mb * 1_000_000 - len(_deflated(_annotations(drawn, side, HIGHEST)))
    quality, pressed = _press_into(room, items, _Press(ImageTransform(side, "squash")), seed)
    problems = tuple(photo for photo in pressed if isinstance(photo, ImageError))
    outcome = iter(pressed)
    kept = {split: [item for item in of_split if isinstance(next(outcome), bytes)] for split, of_split in drawn.items()}
    for split, of_split in kept.items():
        if not of_split:
            raise ValueError(f"no photo of {split!r} can be read; the first problem: {problems[0]}")
    with whole_file(path) as file:
        photos = [photo for photo in pressed if isinstance(photo, bytes)]
        num_bytes = _write_zip(file, photos, _annotations(kept, side, quality))
    return Packed({split: len(of_split) for split, of_split in kept.items()}, side, quality, num_bytes, problems)


def _items(readers: Sequence[Reader], split: str) -> list[CaptionedImage]:
    """The captioned photos of a split of all data sets, in their order."""
    items: list[CaptionedImage] = []
    for reader in readers:
        name = next((name for name in SPLITS[split] if name in reader.splits), None)
        items += [] if name is None else [item for item in reader.read(name) if item.captions]
    if not items:
        raise ValueError(f"no data set has captioned photos in a split {' or '.join(map(repr, SPLITS[split]))}")
    return items


def _draw(items: list[CaptionedImage], split: str, number: int | None, seed: int) -> list[CaptionedImage]:
    """So many of the photos, in the order that they had."""
    if number is None or number >= len(items):
        return items
    chosen = random.Random(stable_seed("pack", seed, split)).sample(range(len(items)), number)
    return [items[index] for index in sorted(chosen)]


class _Press:
    """Makes small WebP files of photos, a few at once.

    Args:
        transform: fits them to the square.
    """

    def __init__(self, transform: ImageTransform) -> None:
        self.transform = transform

    def __call__(self, items: Sequence[CaptionedImage], quality: int) -> list[bytes | ImageError]:
        """The file of each, or why the photo cannot be read."""
        return list(in_threads(lambda item: self._press(item, quality), items, os.cpu_count() or 1))

    def _press(self, item: CaptionedImage, quality: int) -> bytes | ImageError:
        try:
            photo = self.transform.photo(item.path)
        except ImageError as error:
            return error
        file = io.BytesIO()
        self.transform.fitted(photo.pixels, photo.box).save(file, "WEBP", quality=quality, method=6)
        return file.getvalue()


def _press_into(
    room: float, items: Sequence[CaptionedImage], press: _Press, seed: int
) -> tuple[int, list[bytes | ImageError]]:
    """The highest quality at which all photos fit into so many bytes, and what they are then.

    Raises:
        ValueError: they do not fit at the lowest quality either.
    """
    quality = _likely_quality(room, items, press, seed)
    while True:  # mostly once: the sample that the quality is found on is not all
        pressed = press(items, quality)
        size = _stored_bytes(pressed)
        if size <= room:
            return quality, pressed
        if quality == LOWEST:
            raise ValueError(_does_not_fit(len(items), press.transform.size, room, size))
        quality -= 1


def _likely_quality(room: float, items: Sequence[CaptionedImage], press: _Press, seed: int) -> int:
    """The highest quality at which a sample says that all photos fit, by bisection; the errors of `_press_into`."""
    sample = random.Random(stable_seed("quality", seed)).sample(list(items), min(SAMPLE, len(items)))

    def expected(quality: int) -> tuple[float, float]:
        """Bytes of all photos, and by how much they may well be more or less."""
        sizes = [_stored_bytes([photo]) for photo in press(sample, quality)]
        unseen = 1 - len(sample) / len(items)
        deviation = statistics.pstdev(sizes) * math.sqrt(unseen / len(sizes))
        return len(items) * statistics.mean(sizes), len(items) * DEVIATIONS * deviation

    size, deviation = expected(LOWEST)
    if size - deviation > room:
        raise ValueError(_does_not_fit(len(items), press.transform.size, room, size))
    low, high = LOWEST, HIGHEST + 1  # the quality is at least `low`, and less than `high`
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if sum(expected(middle)) <= room else (low, middle)
    return low


def _does_not_fit(num_photos: int, side: int, room: float, size: float) -> str:
    fitting = max(0, int(num_photos * room / size))
    return (
        f"{num_photos:,} photos of {side} x {side} pixels take {size / 1e6:.3g} MB at quality {LOWEST}, the least, and "
        f"the captions leave room for {max(0.0, room) / 1e6:.3g} MB: pack fewer photos by --train and --dev (about "
        f"{fitting:,} fit), or choose a smaller --side or a larger --max-mb"
    )


# ------------------------------------------------------------------------------------------ the zip


def _annotations(items: dict[str, list[CaptionedImage]], side: int, quality: int) -> bytes:
    """Karpathy's format, of photos that are numbered in their order."""
    in_order = [(split, item) for split, of_split in items.items() for item in of_split]
    entries = [
        {
            "filename": Path(_photo_name(number)).name,
            "split": split,
            "sentences": [{"raw": caption} for caption in item.captions],
        }
        for number, (split, item) in enumerate(in_order)
    ]
    content = {"dataset": "packed", "side": side, "quality": quality, "images": entries}
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()


def _photo_name(number: int) -> str:
    return f"{IMAGES}/{number:06d}.webp"


def _write_zip(file: BinaryIO, photos: Sequence[bytes], annotations: bytes) -> int:
    """Write the photos as they are and the annotations deflated; returns the bytes that were written."""
    with zipfile.ZipFile(file, "w") as archive:
        for number, photo in enumerate(photos):
            archive.writestr(zipfile.ZipInfo(_photo_name(number), DATE), photo)
        archive.writestr(zipfile.ZipInfo(ANNOTATIONS, DATE), annotations, zipfile.ZIP_DEFLATED, compresslevel=9)
    return file.tell()


def _stored_bytes(photos: Iterable[bytes | ImageError]) -> int:
    """What photos take up in the zip: themselves, and twice a name and what else stands beside it."""
    each = ENTRY_BYTES + 2 * len(_photo_name(0))
    return sum(each + len(photo) for photo in photos if isinstance(photo, bytes))


def _deflated(annotations: bytes) -> bytes:
    """A zip that holds no photos yet, and the largest end that one may have."""
    file = io.BytesIO()
    _write_zip(file, [], annotations)
    return file.getvalue() + bytes(76)  # the second end, of a zip with more than 65,535 files


def unpack(path: str | Path, folder: str | Path) -> KarpathySplit:
    """Unpack what `pack` wrote; the annotations come last, when all photos are there.

    Args:
        path: the zip. It may come from anywhere: nothing is written outside the folder.
        folder: where to, made where it is missing; files of these names are replaced.

    Returns:
        The data set, with the splits "train" and "val".

    Raises:
        FileNotFoundError: there is no such zip.
        ValueError: it is damaged, or not what `pack` writes.
    """
    path, folder = Path(path), Path(folder)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; python benchmarks/pack.py --output {path} writes it")
    try:
        with zipfile.ZipFile(path) as archive:
            names = _checked_names(archive)
            annotations = archive.read(ANNOTATIONS)
            _require_listed(json.loads(annotations), names)
            (folder / IMAGES).mkdir(parents=True, exist_ok=True)
            for name in names:
                (folder / name).write_bytes(archive.read(name))
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError, RuntimeError) as error:
        raise ValueError(f"{path}: damaged, or not a zip that benchmarks/pack.py wrote ({error})") from error
    write_whole(folder / ANNOTATIONS, annotations)
    return KarpathySplit(str(folder / ANNOTATIONS), str(folder / IMAGES))


def _checked_names(archive: zipfile.ZipFile) -> list[str]:
    """The photos of a zip that holds the annotations, photos and no more.

    Raises:
        ValueError: another name, the same one twice, or sizes that `pack` never writes.
    """
    entries = archive.infolist()
    names = [entry.filename for entry in entries]
    foreign = [name for name in names if name != ANNOTATIONS and not PHOTO_NAME.fullmatch(name)]
    if foreign:
        raise ValueError(f"it holds {foreign[0]!r}")
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"it holds {twice!r} twice")
    if ANNOTATIONS not in names:
        raise ValueError(f"it holds no {ANNOTATIONS}")
    large = [entry for entry in entries if entry.filename != ANNOTATIONS and entry.file_size > MAX_PHOTO_BYTES]
    total = sum(entry.file_size for entry in entries)
    if large or total > MAX_MB * 1_000_000:
        what = repr(large[0].filename) if large else "all of it"
        raise ValueError(f"{what} is {(large[0].file_size if large else total):,} bytes when unpacked")
    return sorted(set(names) - {ANNOTATIONS})


def _require_listed(content: Any, names: Sequence[str]) -> None:
    """Raise unless the annotations are of these photos, each once."""
    try:
        listed = sorted(f"{IMAGES}/{entry['filename']}" for entry in content["images"] if "filepath" not in entry)
        num_entries = len(content["images"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"{ANNOTATIONS} is not in Karpathy's format: {error}") from error
    if num_entries != len(listed) or listed != list(names):
        raise ValueError(f"{ANNOTATIONS} lists other photos than the zip holds")


# ------------------------------------------------------------------------------------------ the command line


def in_one_line(work: Callable[[], int]) -> int:
    """A script's work and its exit status; what a user can mend becomes one line on stderr, and 2."""
    try:
        return work()
    except (ValueError, OSError) as error:
        reason = str(error)
        if isinstance(error, OSError) and error.filename is not None:
            reason = f"{error.filename}: {error.strerror}"
        print(f"captioner: error: {reason}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("captioner: interrupted", file=sys.stderr)
        return 130


def _readers(sources: Iterable[str]) -> list[Reader]:
    readers = []
    for source in sources:
        reader = read_data(source)
        if not isinstance(reader, Reader):
            raise ValueError(f"{source}: a data set of sentences; only photos can be packed")
        readers.append(reader)
    return readers


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Pack small square copies of data sets' photos into one zip.")
    parser.add_argument(
        "--data",
        action="append",
        required=True,
        metavar="CONFIG_OR_FOLDER",
        help="a data set's folder, or a training config (.yaml) that reads it; may be given again",
    )
    parser.add_argument("--output", type=Path, required=True, metavar="ZIP", help="the file to write")
    parser.add_argument("--side", type=positive, default=224, metavar="PIXELS", help="of the photos (default 224)")
    parser.add_argument(
        "--max-mb", type=float, default=36.0, metavar="MB", help="the most that the zip may hold (default 36)"
    )
    parser.add_argument("--train", type=positive, metavar="N", help="training photos to draw (default: all)")
    parser.add_argument("--dev", type=positive, metavar="N", help="validation photos to draw (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="of the draw (default 0)")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Pack; 1 if some photos could not be read, 2 for an error that stopped it."""
    args = parse(arguments)

    def work() -> int:
        options = (args.side, args.max_mb, args.train, args.dev, args.seed)
        packed = pack(_readers(args.data), args.output, *options)
        num_problems = report(packed.problems)
        print(f"{args.output}: {packed}")
        return 1 if num_problems else 0

    return in_one_line(work)


if __name__ == "__main__":
    sys.exit(main())
