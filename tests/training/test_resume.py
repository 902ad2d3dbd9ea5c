"""Exact resume, with real kills: every run is a fork of this process, which has imported everything."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
import pytorch_lightning as pl
from resume_cases import BATCHES, EPOCHS, SETTINGS, train

from captioner.files import whole_file
from captioner.training import AtomicCheckpointIO

KILLS = {  # hook, epoch, batch: where the runs of a setting are killed, each of which goes on from the one before
    "plain": [
        ("on_train_batch_start", 1, 3),
    ],
    "without workers": [  # which must make no difference
        ("on_train_batch_start", 0, 0),
        ("writing", 0, 4),  # the best checkpoint
        ("writing", 0, 1),  # last.ckpt at the epoch's end
        ("on_train_batch_end", 1, 4),
        ("on_validation_batch_start", 1, 1),
        ("on_validation_end", 1, 0),
        ("on_train_epoch_start", 2, 0),
    ],
    "averaged weights": [
        ("on_validation_batch_start", 1, 0),
        ("on_train_batch_end", 2, 2),
    ],
    "accumulation and validation in mid-epoch": [
        ("on_train_batch_start", 1, 2),
        ("on_validation_batch_start", 1, 1),
        ("on_train_batch_start", 1, 4),
    ],
    "early stopping": [("on_train_batch_end", 1, 4), ("on_train_end", 0, 0)],
}


class Killer(pl.Callback):
    """Ends the process as a power cut would, in a hook of one epoch and batch."""

    def __init__(self, hook: str, epoch: int, batch: int) -> None:
        def kill(trainer, pl_module, *args) -> None:
            batch_idx = args[-1] if args else 0
            if trainer.current_epoch == epoch and batch_idx == batch and not trainer.sanity_checking:
                os.kill(os.getpid(), signal.SIGKILL)

        if hook == "on_train_end":
            kill = lambda *args: os.kill(os.getpid(), signal.SIGKILL)  # noqa: E731
        setattr(self, hook, kill)


class KilledWhileWriting(AtomicCheckpointIO):
    """Is killed when the nth checkpoint is half written."""

    def __init__(self, which: int) -> None:
        self.which = which

    def save_checkpoint(self, checkpoint, path, storage_options=None) -> None:
        self.which -= 1
        if self.which < 0:
            with whole_file(path) as file:
                file.write(b"half")
                file.flush()
                os.kill(os.getpid(), signal.SIGKILL)
        super().save_checkpoint(checkpoint, path, storage_options)


def killed_by(kill) -> dict:
    """What ends a run of `train` as one of `KILLS` says."""
    if kill is None:
        return {}
    return {"plugin": KilledWhileWriting(kill[2])} if kill[0] == "writing" else {"first": Killer(*kill)}


def run(folder: Path, setting: str, kill=None, resume: bool = False) -> dict:
    """`train` in a process of its own; its result, or the signal that ended it."""
    folder.mkdir(exist_ok=True)
    result = folder / "result.json"
    result.unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        try:
            result.write_text(json.dumps(train(folder, setting, resume, **killed_by(kill))))
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    return {"signal": os.WTERMSIG(status)} if os.WIFSIGNALED(status) else json.loads(result.read_text())


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> dict:
    """Every setting once straight through, and once with all its kills."""
    folder = tmp_path_factory.mktemp("runs")
    results: dict = {}
    for number, (setting, kills) in enumerate(KILLS.items()):
        results[setting] = run(folder / f"whole {number}", setting)
        resumed = [run(folder / str(number), setting, kill, place > 0) for place, kill in enumerate([*kills, None])]
        results[f"killed: {setting}"] = resumed
    return results


@pytest.mark.parametrize("setting", SETTINGS)
def test_killed_and_resumed_equals_whole(results, setting):
    *killed, resumed = results[f"killed: {setting}"]
    assert killed == [{"signal": signal.SIGKILL}] * len(KILLS[setting])
    assert resumed == results[setting]


def test_the_runs_are_what_they_should_be(results):
    assert results["plain"]["steps"] == EPOCHS * BATCHES
    assert results["plain"]["weights"] == results["plain"]["saved"]
    assert results["plain"] == results["without workers"]
    assert results["averaged weights"]["weights"] == results["averaged weights"]["saved"]
    assert results["averaged weights"]["weights"] != results["plain"]["weights"]
    assert results["early stopping"]["epochs"] == 2
