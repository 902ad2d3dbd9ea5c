"""Plans, tables and rows of bulk runs."""

from __future__ import annotations

import json

import pytest

from captioner.bulk import Plan

pq = pytest.importorskip("pyarrow.parquet")


def rows_of(plan: Plan) -> list[dict]:
    """All rows, in the order of the plan."""
    if plan.settings["format"] == "parquet":
        return pq.read_table(plan.folder).to_pylist()
    lines = [line for path in sorted(plan.folder.glob("part-*")) for line in path.read_text("utf-8").splitlines()]
    return [json.loads(line) for line in lines]
