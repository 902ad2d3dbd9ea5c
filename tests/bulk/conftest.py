"""Fixtures of this folder."""

from __future__ import annotations

import pytest

from captioner.bulk import Job, Plan
from captioner.decoding import GreedySearch
from captioner.predictors import Wording


@pytest.fixture
def job(model_file) -> Job:
    return Job(str(model_file), GreedySearch(), Wording(), device="cpu")


@pytest.fixture
def make_plan(tmp_path, job):
    """Plans work in a folder of its own."""

    def make(work, job=job, name="out") -> Plan:
        return Plan.make(tmp_path / name, job.settings(), work)

    return make
