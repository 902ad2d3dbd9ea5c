"""Averaged weights."""

from __future__ import annotations

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from task_cases import Patches, make_task, make_trainer

from captioner.checkpoint import load_model
from captioner.training import AveragedWeights


class Watch(pl.Callback):
    """Keeps the weights after each step and those that validation sees."""

    def __init__(self) -> None:
        self.steps: list[torch.Tensor] = []
        self.seen: list[torch.Tensor] = []

    def on_train_batch_end(self, trainer, pl_module, *args) -> None:
        self.steps.append(pl_module.model.decoder.embedding.weight.detach().clone())

    def on_validation_batch_start(self, trainer, pl_module, *args) -> None:
        self.seen.append(pl_module.model.decoder.embedding.weight.detach().clone())


def test_averaged_weights_are_validated_and_saved(make_data, tmp_path):
    data = make_data()
    watch = Watch()
    best = ModelCheckpoint(tmp_path, filename="best", monitor="val/nll", save_top_k=1)
    callbacks = [AveragedWeights(decay=0.6), watch, best]
    encoder = Patches(is_frozen=True)
    frozen = encoder.patches.weight.clone()
    make_trainer(tmp_path, max_epochs=2, callbacks=callbacks).fit(make_task(data, encoder), data)
    average = watch.steps[0]
    for weight in watch.steps[1:]:
        average = 0.6 * average + 0.4 * weight
    torch.testing.assert_close(watch.seen[-1], average)
    assert not torch.allclose(watch.steps[-1], average)
    saved = load_model(tmp_path / "best.ckpt", trust=["task_cases"])
    torch.testing.assert_close(saved.model.decoder.embedding.weight, average)
    assert saved.provenance["metrics"]["val/nll"] == pytest.approx(float(best.best_model_score))
    assert saved.provenance["epoch"] == 1
    assert torch.equal(saved.model.encoder.patches.weight, frozen)  # an average of the same numbers is those numbers
