"""Captioning a chunk: the rows that are stored, how they are written, and the worker that does it."""

from __future__ import annotations

import json
import os
import socket
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice, tee
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch

from captioner.bulk.plan import Job, Plan, PlannedChunk
from captioner.bulk.work import TarShard, Work
from captioner.data.shards import is_remote
from captioner.files import in_threads, whole_file
from captioner.predictors import Caption, Captioner, load
from captioner.types import InputError

ROW_GROUP = 5_000  # rows that are in memory at a time
NETWORK_TRIES = 3  # of a remote shard that breaks off
NETWORK_PAUSE = 10.0  # seconds before the next one
MAX_TRIES = 5  # workers that may die over one chunk before the run stops
READERS = 16  # threads that look into finished chunks


# ------------------------------------------------------------------------------------------ rows


def record(image: str, result: Caption | InputError) -> dict[str, Any]:
    """What is stored of an image: its caption, or the reason why it has none."""
    if isinstance(result, InputError):
        return {"image": image, "error": result.reason}
    row = {"image": image, "caption": result.text, "words": result.words, "log_prob": result.log_prob}
    if result.others:
        row["others"] = [{"caption": other.text, "log_prob": other.log_prob} for other in result.others]
    return row


def write_chunk(path: Path, workshop: Path, rows: Iterable[dict[str, Any]], num_best: int = 1) -> None:
    """Write a chunk whole or not at all: in the workshop, to be renamed; `ROW_GROUP` rows are in memory at a time.

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


# ------------------------------------------------------------------------------------------ captioning a chunk


class Done(NamedTuple):
    """What came of a chunk.

    Attributes:
        chunk: its number.
        images: how many it is of.
        errors: how many of them could not be read.
        tries: how many workers began it in this run; all but the last died.
        failure: why it is not done, which stops the run; empty if it is.
    """

    chunk: int
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
        RuntimeError: it failed; says over which chunk, and why.
    """
    done = Done(**row)
    if done.failure:
        raise RuntimeError(done.failure)
    return done


def look_up(path: Path, chunk: int, tries: int = 0) -> Done:
    """What came of a chunk that is done."""
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        error = pq.read_table(path, columns=["error"]).column(0)
        return Done(chunk, len(error), len(error) - error.null_count, tries)
    with open(path, "rb") as file:
        broken = [b'"error": null' not in line for line in file]  # in a text the quotes would be escaped
    return Done(chunk, len(broken), sum(broken), tries)


def done_before(plan: Plan) -> dict[int, Done]:
    """The chunks of a plan that are done, by their numbers."""
    there = set(os.listdir(plan.folder))
    done = [chunk.number for chunk in plan.chunks if plan.path(chunk.number).name in there]
    found = in_threads(lambda number: look_up(plan.path(number), number), done, READERS)
    return dict(zip(done, found, strict=True))


class Worker:
    """Captions chunks, one after another; lives in a process of its own and loads the model once.

    Args:
        plan: the plan, which says what is in a chunk.
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
        """The model, loaded with the first chunk: what goes wrong is then reported like all else.

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
        """Caption a chunk, if it is not done: a `PlannedChunk` to a `Done`, both as rows of a data set."""
        number = planned["number"]
        try:
            return self._caption(PlannedChunk(**planned))._asdict()
        except (ValueError, OSError) as error:  # what a user can mend
            return Done(number, failure=f"chunk {number}: {error}")._asdict()
        except Exception:
            return Done(number, failure=f"chunk {number}: {traceback.format_exc()}")._asdict()

    def _caption(self, planned: PlannedChunk) -> Done:
        path = self.plan.path(planned.number)
        if path.exists() and not planned.again:  # its worker was lost after it had finished, with what it had to say
            return look_up(path, planned.number)
        tries = self._count_try(path.stem)
        work = self.plan.read(planned.offset)
        fresh = self.plan.workshop / path.name if planned.again else path
        for trials_left in reversed(range(NETWORK_TRIES)):
            try:
                write_chunk(fresh, self.plan.workshop, self._rows(work, is_last=not trials_left), self.job.num_best)
                break
            except ConnectionError:
                time.sleep(NETWORK_PAUSE)
        if planned.again and look_up(fresh, 0).captions >= look_up(path, 0).captions:
            os.replace(fresh, path)
        return look_up(path, planned.number, tries)

    def _count_try(self, name: str) -> int:
        """Note down that this process begins a chunk; the number of those that have begun it in this run.

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
        """The rows of a chunk.

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
