"""A run's folder; the command's tests have the rest of it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from captioner.training import run_folder
from captioner.training.run_folder import held, what_came_of_it


def test_one_training_at_a_time(tmp_path):
    with held(str(tmp_path)), pytest.raises(ValueError, match="another training is writing to it"), held(str(tmp_path)):
        pass
    with held(str(tmp_path)):
        pass


def test_a_folder_that_cannot_be_locked_is_trained_in(tmp_path, monkeypatch):
    def no_locks(*arguments, **options):
        raise OSError("no locks here")

    monkeypatch.setattr(run_folder, "locked", no_locks)
    with (
        pytest.warns(UserWarning, match=r"cannot be locked, start one training in it only \(no locks here\)"),
        held("x"),
    ):
        pass


def test_an_end_without_a_best_checkpoint_names_the_last():
    trainer = SimpleNamespace(checkpoint_callback=None, default_root_dir="runs/x")
    lines = what_came_of_it(trainer, reads_text=True).splitlines()
    assert lines[0] == "captioner: the weights are in runs/x/checkpoints/last.ckpt"
    assert lines[1].endswith('captioner caption "A SENTENCE" --text --model runs/x/checkpoints/last.ckpt')
