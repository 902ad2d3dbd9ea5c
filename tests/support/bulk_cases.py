"""Plans, tables and rows of bulk runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from captioner.bulk import Done, Job, Plan, Worker, done_before

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


def rows_of(plan: Plan) -> list[dict]:
    """All rows, in the order of the plan."""
    if plan.settings["format"] == "parquet":
        return pq.read_table(plan.folder).to_pylist()
    lines = [line for path in sorted(plan.folder.glob("part-*")) for line in path.read_text("utf-8").splitlines()]
    return [json.loads(line) for line in lines]


def caption_all(plan: Plan, job: Job) -> list[Done]:
    worker = Worker(plan, job)
    return [Done(**worker(chunk._asdict())) for chunk in plan.chunks if chunk.number not in done_before(plan)]


def write_table(file: Path, **columns: list) -> str:
    pq.write_table(pa.table(columns), file, row_group_size=4)
    return str(file)
