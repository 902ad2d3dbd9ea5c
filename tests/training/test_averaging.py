"""Averaged weights."""

from __future__ import annotations

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from task_cases import Patches, make_task, make_trainer

from captioner.checkpoint import load_model
from captioner.training import AveragedWeights
from captioner.training.averaging import Average


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
    for number, weight in enumerate(watch.steps[1:], start=1):
        decay = min(0.6, (1 + number) / (10 + number))
        average = decay * average + (1 - decay) * weight
    torch.testing.assert_close(watch.seen[-1], average)
    assert not torch.allclose(watch.steps[-1], average)
    saved = load_model(tmp_path / "best.ckpt", trust=["task_cases"])
    torch.testing.assert_close(saved.model.decoder.embedding.weight, average)
    assert saved.provenance["metrics"]["val/nll"] == pytest.approx(float(best.best_model_score))
    assert saved.provenance["epoch"] == 1
    assert torch.equal(saved.model.encoder.patches.weight, frozen)  # an average of the same numbers is those numbers


def test_an_average_of_few_steps_is_not_one_of_the_first_weights():
    """After 188 steps of 1, 0.998 alone would leave 69% of the 0 that it began with."""
    model, average = torch.nn.Linear(1, 1), None
    for step in range(188):
        model.weight.data.fill_(float(step > 0))
        average = average or Average(model, 0.998)
        average.update_parameters(model)
    assert average.module.weight.item() > 0.999


@pytest.mark.parametrize("decay", [1.0, -0.1, float("nan")])
def test_a_decay_that_averages_nothing_is_refused(decay):
    with pytest.raises(ValueError, match="decay must be "):
        AveragedWeights(decay)
