"""The run: Ray, how its machines are divided among workers, and the chunks as they come back."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from captioner.bulk.chunks import Done, Worker, answer
from captioner.bulk.plan import Job, Plan, PlannedChunk

MAX_TASKS = 10_000  # that Ray is given; with more chunks than that, a task is several
CPU_THREADS = 1  # of a worker that has no GPU: many small ones never wait for one another


@contextmanager
def ray_cluster(address: str | None = None) -> Iterator[None]:
    """Ray on this machine, without a dashboard and without messages; or an existing cluster.

    Args:
        address: of the cluster's head, or "auto" on one of its machines; None starts one here.

    Raises:
        ValueError: no cluster answers there.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ.setdefault(
        "RAY_NUM_REDIS_GET_RETRIES", "2"
    )  # with Ray's 20 a cluster that is gone is waited for minutes
    os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's 15 would halve the speed of workers on a busy machine
    import ray
    from ray.data import DataContext

    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    try:
        ray.init(
            address or "local",
            include_dashboard=None if address else False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except (RuntimeError, OSError, ValueError) as error:
        if address is None:
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"no Ray cluster answers at --ray-address {address} ({reason}): start one by `ray start --head`, or leave "
            "it out to use this machine alone"
        ) from error
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


def run_chunks(
    plan: Plan,
    job: Job,
    missing: Sequence[PlannedChunk],
    workers: int | None = None,
    prepare: Callable[[], None] | None = None,
) -> Iterator[Done]:
    """Caption chunks by workers of the Ray cluster that this process is connected to, in any order.

    A worker that dies is started again, and its chunk begun again. What goes wrong within a worker stops the run.

    Args:
        plan: the plan.
        job: how to caption.
        missing: the chunks to caption.
        workers: how many, see `share_out`.
        prepare: called in every worker before it loads the model.

    Raises:
        RuntimeError: a worker failed; says over which chunk, and why.
    """
    import ray

    share = share_out([node["Resources"] for node in ray.nodes() if node["Alive"]], job.device, workers)
    chunks = ray.data.from_items(
        [chunk._asdict() for chunk in missing], override_num_blocks=min(len(missing), MAX_TASKS)
    )
    done = chunks.map(
        Worker,  # type: ignore[arg-type]  # a class, which Ray makes an instance of in each worker
        fn_constructor_args=(plan, job, share.cpus or None, prepare),
        compute=ray.data.ActorPoolStrategy(size=min(share.workers, len(missing)), max_tasks_in_flight_per_actor=1),
        num_cpus=share.cpus or None,
        num_gpus=share.gpus or None,
    )
    for rows in done.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        for row in rows.to_pylist():  # type: ignore[union-attr]
            yield answer(row)
