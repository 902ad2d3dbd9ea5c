"""Bulk captioning: any number of images on any number of machines, in parts; a run that was killed goes on.

The output folder holds

    _plan.jsonl            what decides the captions, then a line for each part: which images it is made of
    part-000012.parquet    (or .jsonl) a row for each image of a part: its caption, or the reason why it has none

The first run writes the plan and later ones read it, so that all agree on what is in a part, whatever happened to the
images since. A part is written beside its place and renamed when it is whole: it is there, or it is not done. No run
needs to know more than that to go on, and it does no harm when a part is begun twice. (Readers of parquet folders
leave out files that begin with "_" or ".".)
"""

from __future__ import annotations

import glob
import hashlib
import json
import logging
import os
import socket
import time
import traceback
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import chain, islice, tee
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch

from captioner.data.images import ImageError, ImageSource, InputError, find_images
from captioner.data.readers import IMAGE_COLUMNS
from captioner.data.shards import find_shards, is_remote, is_shard, stream_shard
from captioner.decoding import Search
from captioner.predictor import Caption, Captioner, Precision, Wording, load

PLAN = "_plan.jsonl"
PLAN_VERSION = 1
WORKSHOP = ".run"  # holds half-written parts, and the lock of the run that is at work
ROW_GROUP = 5_000  # rows that are in memory at a time
NETWORK_TRIES = 3  # of a remote shard that breaks off
NETWORK_PAUSE = 10.0  # seconds before the next one
MAX_TRIES = 5  # workers that may die over one part before the run stops
MAX_TASKS = 10_000  # that Ray is given; with more parts than that, a task is several
READERS = 16  # threads that look into finished parts
CPU_THREADS = 1  # of a worker that has no GPU: many small ones never wait for one another


# ------------------------------------------------------------------------------------------ what a part is made of


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
        return ((image, os.path.join(root, image)) for image in self.images)


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
                        yield path or "", os.path.join(root, path or "")
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
        place = self.shard if is_remote(self.shard) else os.path.join(root, self.shard)
        return ((self.shard + str(image).removeprefix(place), image) for image in stream_shard(place))


Work = ImageList | TableRows | TarShard
KINDS: dict[str, type[Work]] = {kind.__name__: kind for kind in (ImageList, TableRows, TarShard)}


def divide_images(images: Iterable[str], part_size: int) -> Iterator[ImageList]:
    """Parts of so many images, the last one of what is left."""
    rest = iter(images)
    while chunk := tuple(islice(rest, part_size)):
        yield ImageList(chunk)


def divide_table(table: str, part_size: int, column: str | None = None) -> Iterator[TableRows]:
    """Parts of so many rows of a parquet file; of its data nothing is read.

    Args:
        table: the file.
        part_size: rows of a part.
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
    for start in range(0, num_rows, part_size):
        yield TableRows(table, found, start, min(start + part_size, num_rows))


def find_work(
    paths: Sequence[str], part_size: int, column: str | None = None
) -> tuple[list[Work], Sequence[InputError]]:
    """Divide what the paths of a command line mean into parts.

    Args:
        paths: photos, folders or patterns of photos (see `find_images`); parquet files, or folders or patterns of them;
            tar shards or patterns of them (see `find_shards`).
        part_size: images of a part; a shard is one, whatever its size.
        column: of paths in parquet files, see `divide_table`.

    Returns:
        work: the parts, in order: photos, tables, shards.
        problems: one for each path that gave nothing.

    Raises:
        ValueError: a folder of photos and parquet files both; or see `divide_table`.
    """
    patterns = [path for path in paths if is_shard(path)]
    tables = [path for path in paths if path not in patterns and _tables(path)]
    for path in tables:
        if os.path.isdir(path) and find_images([path])[0]:
            raise ValueError(
                f"{path}: holds photos and parquet files: give {path}/*.parquet, or a pattern of the photos"
            )
    images, problems = find_images([path for path in paths if path not in patterns and path not in tables])
    work: list[Work] = [*divide_images(images, part_size)]
    for table in dict.fromkeys(table for path in tables for table in _tables(path)):
        work += divide_table(table, part_size, column)
    shards: list[str] = []
    for pattern in patterns:
        try:
            shards += find_shards(pattern)
        except FileNotFoundError:
            problems.append(ImageError(pattern, "no shard matches this pattern"))
    return [*work, *map(TarShard, dict.fromkeys(shards))], problems


def _tables(path: str) -> list[str]:
    """The parquet files that a path means: itself, those in a folder or those of a pattern."""
    if os.path.isdir(path):
        path = os.path.join(glob.escape(path), "*.parquet")
    return sorted(glob.glob(path)) if path.endswith(".parquet") else []


# ------------------------------------------------------------------------------------------ the plan


@contextmanager
def whole_file(path: Path, workshop: Path) -> Iterator[BinaryIO]:
    """A file to write that comes to be when it is whole, and on the disk: until then it lies in the workshop."""
    unfinished = workshop / f"{path.stem}-{uuid.uuid4().hex}"
    workshop.mkdir(parents=True, exist_ok=True)
    try:
        with open(unfinished, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


@dataclass(frozen=True)
class Job:
    """How images are captioned, and how the captions are stored: all that a worker needs to know.

    Attributes:
        model: the model's file, which every machine finds there.
        search: how to search.
        wording: what captions must obey.
        num_best: captions of each image.
        format: of the parts: "parquet" or "jsonl".
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


class PlannedPart(NamedTuple):
    """A part in the plan.

    Attributes:
        number: of the part.
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
            self.parts = []
            offset = file.tell()
            for number, line in enumerate(file):
                self.parts.append(PlannedPart(number, offset, _work(line).sizes.total()))
                offset += len(line)

    @classmethod
    def make(cls, folder: str | Path, settings: dict[str, Any], work: Iterable[Work]) -> Plan:
        """Write a plan; paths in it start at the current folder, wherever later runs are started."""
        place = Path(folder)
        head = {"version": PLAN_VERSION, "root": os.getcwd(), "settings": settings}
        lines = ({type(part).__name__: asdict(part)} for part in work)
        with whole_file(place / PLAN, place / WORKSHOP) as file:
            file.writelines(json.dumps(line).encode() + b"\n" for line in chain([head], lines))
        return cls(folder)

    def __getstate__(self) -> dict[str, Any]:
        """What workers are sent of it: they are told which parts to do, and there may be millions."""
        return {**self.__dict__, "parts": []}

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
        """What the parts are made of, in order."""
        return (self.read(part.offset) for part in self.parts)

    def read(self, offset: int) -> Work:
        """What the part is made of whose line begins at this place."""
        with open(self.folder / PLAN, "rb") as file:
            file.seek(offset)
            return _work(file.readline())

    def path(self, number: int) -> Path:
        """The file of a part."""
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
    for part in work:
        for name, size in part.sizes.items():
            sizes[_place(root, name)] += size
    return sizes


def _place(root: str, name: str) -> str:
    """A path made absolute, or a URL as it is."""
    return name if is_remote(name) else os.path.normpath(os.path.join(root, name))


# ------------------------------------------------------------------------------------------ rows


def record(image: str, result: Caption | InputError) -> dict[str, Any]:
    """What is stored of an image: its caption, or the reason why it has none."""
    if isinstance(result, InputError):
        return {"image": image, "error": result.reason}
    row = {"image": image, "caption": result.text, "words": result.words, "log_prob": result.log_prob}
    if result.others:
        row["others"] = [{"caption": other.text, "log_prob": other.log_prob} for other in result.others]
    return row


def write_part(path: Path, workshop: Path, rows: Iterable[dict[str, Any]], num_best: int = 1) -> None:
    """Write a part whole or not at all: in the workshop, to be renamed; `ROW_GROUP` rows are in memory at a time.

    Args:
        path: the file, whose suffix says the format.
        workshop: a folder on the same disk.
        rows: of `record`; a column that a row does not have is null in it.
        num_best: with more than one caption per image there is a column `others`.
    """
    empty = dict.fromkeys(("image", "caption", "words", "log_prob", *(("others",) if num_best > 1 else ()), "error"))
    full = ({**empty, **row} for row in rows)
    with whole_file(path, workshop) as file:
        (_write_parquet if path.suffix == ".parquet" else _write_jsonl)(file, full, list(empty))


def _write_jsonl(file: BinaryIO, rows: Iterable[dict[str, Any]], columns: Sequence[str]) -> None:
    for row in rows:
        file.write(json.dumps(row, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n")


def _write_parquet(file: BinaryIO, rows: Iterable[dict[str, Any]], columns: Sequence[str]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    other = pa.struct([("caption", pa.string()), ("log_prob", pa.float64())])
    kinds = {"words": pa.list_(pa.string()), "log_prob": pa.float64(), "others": pa.list_(other)}
    schema = pa.schema([(name, kinds.get(name, pa.string())) for name in columns])
    rest = iter(rows)
    with pq.ParquetWriter(file, schema, compression="zstd") as writer:
        while group := list(islice(rest, ROW_GROUP)):
            for row in group:  # files' names may hold what is no text
                for name in ("image", "error"):
                    row[name] = row[name] and row[name].encode("utf-8", "backslashreplace").decode()
            writer.write_table(pa.Table.from_pylist(group, schema))


# ------------------------------------------------------------------------------------------ captioning a part


class Done(NamedTuple):
    """What came of a part.

    Attributes:
        part: its number.
        images: how many it is of.
        errors: how many of them could not be read.
        tries: how many workers began it in this run; all but the last died.
        failure: why it is not done, which stops the run; empty if it is.
    """

    part: int
    images: int = 0
    errors: int = 0
    tries: int = 0
    failure: str = ""

    @property
    def captions(self) -> int:
        """How many images have a caption."""
        return self.images - self.errors


def answer(row: Mapping[str, Any]) -> Done:
    """What a worker answered.

    Raises:
        RuntimeError: it failed; says over which part, and why.
    """
    done = Done(**row)
    if done.failure:
        raise RuntimeError(done.failure)
    return done


def look_up(path: Path, part: int, tries: int = 0) -> Done:
    """What came of a part that is done."""
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        error = pq.read_table(path, columns=["error"]).column(0)
        return Done(part, len(error), len(error) - error.null_count, tries)
    with open(path, "rb") as file:
        broken = [b'"error": null' not in line for line in file]  # in a text the quotes would be escaped
    return Done(part, len(broken), sum(broken), tries)


def done_before(plan: Plan) -> dict[int, Done]:
    """The parts of a plan that are done, by their numbers."""
    there = set(os.listdir(plan.folder))
    done = [part.number for part in plan.parts if plan.path(part.number).name in there]
    with ThreadPoolExecutor(READERS) as pool:
        return dict(zip(done, pool.map(look_up, map(plan.path, done), done), strict=True))


class Worker:
    """Captions parts, one after another; lives in a process of its own and loads the model once.

    Args:
        plan: the plan, which says what is in a part.
        job: how to caption.
        threads: CPU threads of the model; None leaves what torch chooses.
        prepare: called before the model is loaded.
    """

    def __init__(
        self, plan: Plan, job: Job, threads: int | None = None, prepare: Callable[[], None] | None = None
    ) -> None:
        self.plan = plan
        self.job = job
        self.threads = threads
        self.prepare = prepare

    @cached_property
    def captioner(self) -> Captioner:
        """The model, loaded with the first part: what goes wrong is then reported like all else.

        Raises:
            PlanError: this machine has another model under that path.
        """
        job = self.job
        self.plan.require(job.settings())
        if self.prepare is not None:
            self.prepare()
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        return load(job.model, job.device, job.trust, job.cache, job.regions, job.precision)

    def __call__(self, planned: dict[str, Any]) -> dict[str, Any]:
        """Caption a part, if it is not done: a `PlannedPart` to a `Done`, both as rows of a data set."""
        number = planned["number"]
        try:
            return self._caption(PlannedPart(**planned))._asdict()
        except (ValueError, OSError) as error:  # what a user can mend
            return Done(number, failure=f"part {number}: {error}")._asdict()
        except Exception:
            return Done(number, failure=f"part {number}: {traceback.format_exc()}")._asdict()

    def _caption(self, planned: PlannedPart) -> Done:
        path = self.plan.path(planned.number)
        if path.exists() and not planned.again:  # its worker was lost after it had finished, with what it had to say
            return look_up(path, planned.number)
        tries = self._count_try(path.stem)
        work = self.plan.read(planned.offset)
        fresh = self.plan.workshop / path.name if planned.again else path
        for trials_left in reversed(range(NETWORK_TRIES)):
            try:
                write_part(fresh, self.plan.workshop, self._rows(work, is_last=not trials_left), self.job.num_best)
                break
            except ConnectionError:
                time.sleep(NETWORK_PAUSE)
        if planned.again and look_up(fresh, 0).captions >= look_up(path, 0).captions:
            os.replace(fresh, path)
        return look_up(path, planned.number, tries)

    def _count_try(self, name: str) -> int:
        """Note down that this process begins a part; the number of those that have begun it in this run.

        Raises:
            ValueError: too many have died over it.
        """
        path = self.plan.workshop / f"{name}.tries"
        with open(path, "a+", encoding="utf-8") as file:
            file.seek(0)
            before = file.read().splitlines()
            file.write(f"{socket.gethostname()} {os.getpid()}\n")
        if len(before) >= MAX_TRIES:
            raise ValueError(
                f"{len(before)} workers died over it, one after another (too little memory?): {', '.join(before)}"
            )
        return len(before) + 1

    def _rows(self, work: Work, is_last: bool) -> Iterator[dict[str, Any]]:
        """The rows of a part.

        Raises:
            ConnectionError: a remote shard broke off; in the last trial that is a row, as the shard may be at fault.
        """
        names, images = tee(work.open(self.plan.root))
        job = self.job
        results = self.captioner.stream(
            (image for _, image in images), job.search, job.wording, job.batch_size, job.num_best, maps=False
        )
        for (name, _), (_, result) in zip(names, results, strict=True):
            if isinstance(work, TarShard) and name == work.shard and is_remote(name) and not is_last:
                raise ConnectionError(str(result))
            yield record(name, result)


# ------------------------------------------------------------------------------------------ the run


@contextmanager
def ray_cluster(address: str | None = None) -> Iterator[None]:
    """Ray on this machine, without a dashboard and without messages; or an existing cluster.

    Args:
        address: of the cluster's head, or "auto" on one of its machines; None starts one here.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's 15 would halve the speed of workers on a busy machine
    import ray
    from ray.data import DataContext

    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    ray.init(
        address or "local",
        include_dashboard=None if address else False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    try:
        context = DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        yield
    finally:
        ray.shutdown()


class Share(NamedTuple):
    """What of the cluster each worker gets.

    Attributes:
        workers: how many workers there are.
        cpus: CPUs of each, which are its threads.
        gpus: GPUs of each.
    """

    workers: int
    cpus: int
    gpus: int


def share_out(nodes: Sequence[Mapping[str, float]], device: str, workers: int | None = None) -> Share:
    """Divide the machines among workers: a GPU each or, where there is none, a few CPUs each.

    Args:
        nodes: each machine's resources, by Ray's names "CPU" and "GPU".
        device: the job's; "cpu" leaves GPUs alone.
        workers: how many; by default as many as there are GPUs, or `CPU_THREADS` CPUs.

    Raises:
        ValueError: more workers than there is room for.
    """
    gpus = 0 if device == "cpu" else sum(int(node.get("GPU", 0)) for node in nodes)
    if gpus:
        if workers is not None and workers > gpus:
            raise ValueError(f"{workers} workers: there are {gpus} GPUs, one for each worker")
        return Share(workers or gpus, 0, 1)
    cpus = [int(node.get("CPU", 0)) for node in nodes]
    if workers is None:
        workers = max(1, sum(each // CPU_THREADS for each in cpus))
    if workers > sum(cpus):
        raise ValueError(f"{workers} workers: there are {sum(cpus)} CPUs, at least one for each worker")
    threads = next(threads for threads in range(max(cpus), 0, -1) if sum(each // threads for each in cpus) >= workers)
    return Share(workers, threads, 0)


def run_parts(
    plan: Plan,
    job: Job,
    missing: Sequence[PlannedPart],
    workers: int | None = None,
    prepare: Callable[[], None] | None = None,
) -> Iterator[Done]:
    """Caption parts by workers of the Ray cluster that this process is connected to, in any order.

    A worker that dies is started again, and its part begun again. What goes wrong within a worker stops the run.

    Args:
        plan: the plan.
        job: how to caption.
        missing: the parts to caption.
        workers: how many, see `share_out`.
        prepare: called in every worker before it loads the model.

    Raises:
        RuntimeError: a worker failed; says over which part, and why.
    """
    import ray

    share = share_out([node["Resources"] for node in ray.nodes() if node["Alive"]], job.device, workers)
    parts = ray.data.from_items([part._asdict() for part in missing], override_num_blocks=min(len(missing), MAX_TASKS))
    done = parts.map(
        Worker,  # type: ignore[arg-type]  # a class, which Ray makes an instance of in each worker
        fn_constructor_args=(plan, job, share.cpus or None, prepare),
        compute=ray.data.ActorPoolStrategy(size=min(share.workers, len(missing)), max_tasks_in_flight_per_actor=1),
        num_cpus=share.cpus or None,
        num_gpus=share.gpus or None,
    )
    for rows in done.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        for row in rows.to_pylist():  # type: ignore[union-attr]
            yield answer(row)
