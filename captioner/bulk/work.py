"""What a chunk is made of: some image files, some rows of a table, or a shard; and how the inputs are divided."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice

from captioner.data.images import ImageSource, find_images
from captioner.data.readers.folder import IMAGE_COLUMNS
from captioner.data.shards import find_all, is_remote, is_shard, stream_shard
from captioner.types import InputError


def place(root: str, name: str) -> str:
    """Where something is: a path that starts at `root`, or a URL as it is."""
    return name if is_remote(name) else os.path.join(root, name)


@dataclass(frozen=True)
class ImageList:
    """Image files.

    Attributes:
        images: their paths.
    """

    images: tuple[str, ...]

    @property
    def sizes(self) -> Counter[str]:
        """The images, one of each."""
        return Counter(self.images)

    def open(self, root: str) -> Iterator[tuple[str, ImageSource]]:
        """Each image's name and what to open; paths start at `root`."""
        return ((image, place(root, image)) for image in self.images)


@dataclass(frozen=True)
class TableRows:
    """Rows of a parquet file, in a column of which are image files' paths.

    Attributes:
        table: the parquet file.
        column: the column's name.
        start: the first row.
        stop: the row after the last.
    """

    table: str
    column: str
    start: int
    stop: int

    @property
    def sizes(self) -> Counter[str]:
        """The file, and how many rows of it."""
        return Counter({self.table: self.stop - self.start})

    def open(self, root: str) -> Iterator[tuple[str, ImageSource]]:
        """Each image's path as it stands in the table, and what to open; paths start at `root`."""
        import pyarrow.parquet as pq

        with pq.ParquetFile(os.path.join(root, self.table)) as file:
            if file.metadata.num_rows < self.stop:
                raise ValueError(f"{self.table}: has {file.metadata.num_rows} rows, and had more when it was planned")
            first = 0  # of the row group
            for group in range(file.num_row_groups):
                end = first + file.metadata.row_group(group).num_rows
                if first < self.stop and self.start < end:
                    column = file.read_row_group(group, [self.column]).column(0)
                    for path in column[max(self.start - first, 0) : self.stop - first].to_pylist():
                        yield path or "", place(root, path or "")
                first = end


@dataclass(frozen=True)
class TarShard:
    """A tar file of images, all of it.

    Attributes:
        shard: its path or URL.
    """

    shard: str

    @property
    def sizes(self) -> Counter[str]:
        """The shard as one: how many images it holds is known when it has been read."""
        return Counter([self.shard])

    def open(self, root: str) -> Iterator[tuple[str, ImageSource]]:
        """Each image's name, the shard's before it, and what to open; a path starts at `root`."""
        shard = place(root, self.shard)
        return ((self.shard + str(image).removeprefix(shard), image) for image in stream_shard(shard))


Work = ImageList | TableRows | TarShard
KINDS: dict[str, type[Work]] = {kind.__name__: kind for kind in (ImageList, TableRows, TarShard)}


def divide_images(images: Iterable[str], chunk_size: int) -> Iterator[ImageList]:
    """Chunks of so many images, the last one of what is left."""
    rest = iter(images)
    while chunk := tuple(islice(rest, chunk_size)):
        yield ImageList(chunk)


def divide_table(table: str, chunk_size: int, column: str | None = None) -> Iterator[TableRows]:
    """Chunks of so many rows of a parquet file; of its data nothing is read.

    Args:
        table: the file.
        chunk_size: rows of a chunk.
        column: the column of paths; by default the first that is called as in `IMAGE_COLUMNS`.

    Raises:
        ValueError: it is no parquet file, or has no such column of texts.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(table) as file:
            num_rows, schema = file.metadata.num_rows, file.schema_arrow
    except pa.ArrowInvalid as error:
        raise ValueError(f"{table}: not a parquet file, or damaged") from error
    wanted = IMAGE_COLUMNS if column is None else (column,)
    found = next((name for name in wanted if name in schema.names), None)
    if found is None:
        there = ", ".join(schema.names) or "none"
        raise ValueError(f"{table}: no column {' or '.join(wanted)}; there are: {there} (name one by --column)")
    kind = schema.field(found).type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
        raise ValueError(f"{table}: the column {found} holds {kind}, not paths")
    for start in range(0, num_rows, chunk_size):
        yield TableRows(table, found, start, min(start + chunk_size, num_rows))


def find_work(
    paths: Sequence[str], chunk_size: int, column: str | None = None
) -> tuple[list[Work], Sequence[InputError]]:
    """Divide what the paths of a command line mean into chunks.

    Args:
        paths: photos, folders or patterns of photos (see `find_images`); parquet files, or folders or patterns of them;
            tar shards or patterns of them (see `find_shards`).
        chunk_size: images of a chunk; a shard is one, whatever its size.
        column: of paths in parquet files, see `divide_table`.

    Returns:
        work: the chunks, in order: photos, tables, shards.
        problems: one for each path that gave nothing.

    Raises:
        ValueError: a folder of photos and parquet files both; or see `divide_table`.
    """
    patterns = [path for path in paths if is_shard(path)]
    tables = {path: found for path in paths if path not in patterns and (found := _tables(path))}
    for path in tables:
        if os.path.isdir(path) and find_images([path])[0]:
            raise ValueError(
                f"{path}: holds photos and parquet files: give {path}/*.parquet, or a pattern of the photos"
            )
    images, problems = find_images([path for path in paths if path not in patterns and path not in tables])
    work: list[Work] = [*divide_images(images, chunk_size)]
    for table in dict.fromkeys(chain.from_iterable(tables.values())):
        work += divide_table(table, chunk_size, column)
    shards, no_shards = find_all(patterns)
    return [*work, *map(TarShard, shards)], [*problems, *no_shards]


def _tables(path: str) -> list[str]:
    """The parquet files that a path means: itself, those in a folder or those of a pattern."""
    if os.path.isdir(path):
        path = os.path.join(glob.escape(path), "*.parquet")
    return sorted(glob.glob(path)) if path.endswith(".parquet") else []
