"""What a trace says."""

from __future__ import annotations

import gzip
import json

import pytest
import torch

from benchmarks.trace import busy_share, table, trace
from benchmarks.workload import QUICK


@pytest.mark.parametrize(
    ("spans", "share"),
    [
        ([], 0.0),
        ([(5.0, 5.0)], 0.0),
        ([(0.0, 1.0)], 1.0),
        ([(0.0, 1.0), (3.0, 4.0)], 0.5),
        ([(3.0, 4.0), (0.0, 2.0), (1.0, 2.0)], 0.75),  # in any order; two streams at a time count once
        ([(10.0, 20.0), (12.0, 13.0), (15.0, 25.0), (35.0, 40.0)], 20 / 30),
    ],
)
def test_busy_is_the_time_in_which_something_runs(spans, share):
    assert busy_share(spans) == pytest.approx(share)


def test_a_step_is_traced(tmp_path):
    file = tmp_path / "trace.json.gz"
    traced = trace(torch.device("cpu"), QUICK, file)
    assert len(json.loads(gzip.decompress(file.read_bytes()))["traceEvents"]) > 100
    for step in traced:
        assert 0 < step.busy <= 1
        assert step.kernels > 100
        assert step.seconds > 0
        assert 0 < sum(step.longest.values()) <= 1 + 1e-6
    assert "| ours, eager fp32 |" in table([vars(step) for step in traced])
