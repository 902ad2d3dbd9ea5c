"""A run's folder; the command's tests have the rest of it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

from captioner.training.run_folder import held, what_came_of_it


def test_one_training_at_a_time(tmp_path):
    with held(str(tmp_path)), pytest.raises(ValueError, match="another training is writing to it"), held(str(tmp_path)):
        pass
    with held(str(tmp_path)):
        pass


def test_an_end_without_a_best_checkpoint_names_the_last():
    trainer = SimpleNamespace(checkpoint_callback=None, checkpoint_callbacks=[], default_root_dir="runs/x")
    lines = what_came_of_it(trainer, reads_text=True).splitlines()
    assert lines[0] == "captioner: the weights are in runs/x/checkpoints/last.ckpt"
    assert lines[1].endswith('captioner caption "A SENTENCE" --text --model runs/x/checkpoints/last.ckpt')


def test_a_best_score_of_0_is_none(tmp_path):
    best = ModelCheckpoint(monitor="val/cider", mode="max")
    best.best_model_path, best.best_model_score = "runs/x/checkpoints/best-00-0.00.ckpt", torch.tensor(0.0)
    trainer = SimpleNamespace(checkpoint_callback=best, checkpoint_callbacks=[best], default_root_dir="runs/x")
    first = what_came_of_it(trainer, reads_text=False).splitlines()[0]
    assert first == "captioner: no val/cider was above 0 yet; the last weights are in runs/x/checkpoints/last.ckpt"
