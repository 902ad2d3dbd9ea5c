"""A training on a GPU: cut off and resumed to the same bits, with pinned batches."""

from __future__ import annotations

from importlib.util import find_spec
from itertools import islice
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from resume_cases import BATCHES, EPOCHS, train

from captioner.data.batches import move


class CutOffError(Exception):
    """Ends a run."""


class CutOff(pl.Callback):
    """Ends a run in the middle of its second epoch."""

    def on_train_batch_end(self, trainer, pl_module, *args) -> None:
        if trainer.current_epoch == 1 and args[-1] == 2:
            raise CutOffError


@pytest.fixture(autouse=True)
def _no_scores(monkeypatch):
    """They are not what these tests look at, and their library need not be there."""
    if find_spec("pycocoevalcap") is None:
        scores = SimpleNamespace(cider=0.0, bleu=(0.0,) * 4)
        monkeypatch.setattr("captioner.tasks.captioning.task.quick_score", lambda *captions: scores)


@pytest.mark.parametrize(
    ("how", "precision"),
    [
        ("launched", "32-true"),
        ("launched", "bf16-mixed"),
        ("graphs", "bf16-mixed"),
        ("compiled", "bf16-mixed"),
        ("compiled graphs", "bf16-mixed"),
    ],
)
def test_cut_off_and_resumed_equals_whole(device, tmp_path, how, precision):
    if device.type == "cpu" and (how, precision) != ("launched", "32-true"):
        pytest.skip("needs a GPU")
    options = {
        "accelerator": "gpu" if device.type == "cuda" else "cpu",
        "devices": 1,
        "deterministic": True,
        "precision": precision,
        "compile": "compiled" in how,
        "cuda_graphs": "graphs" in how,
    }
    try:
        whole = train(tmp_path / "whole", "without workers", **options)
        with pytest.raises(CutOffError):
            train(tmp_path / "cut", "without workers", first=CutOff(), **options)
        resumed = train(tmp_path / "cut", "without workers", resume=True, **options)
    finally:
        torch.use_deterministic_algorithms(False)
    assert resumed == whole
    assert whole["steps"] == EPOCHS * BATCHES


def test_batches_are_pinned_and_arrive_whole(cuda, make_data, no_waiting):
    loader = make_data(num_workers=1).train_dataloader()
    for batch in islice(loader, 2):
        assert batch.source.is_pinned()
        assert batch.tokens.is_pinned()
        with no_waiting:
            there = move(batch, cuda)
        assert torch.equal(there.source.cpu(), batch.source)
        assert torch.equal(there.tokens.cpu(), batch.tokens)
        assert not there.lengths.is_cuda  # loops are planned on the host
