"""Exact resume, with real kills: every run is a fork of this process, which has imported everything."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping, EMAWeightAveraging, ModelCheckpoint
from torch import nn

from captioner.data import Augmentation, ImageTransform
from captioner.data.readers import SyntheticShapes
from captioner.files import whole_file
from captioner.models import Encoder, ShowAttendTell
from captioner.tasks.captioning import CaptionData, CaptioningTask
from captioner.tokenizer import WordLevel
from captioner.training import AtomicCheckpointIO, ExactResume, WarmupCosine
from captioner.types import Memory

EPOCHS = 3
BATCHES = 5  # of an epoch

SETTINGS = {
    "plain": {},
    "without workers": {"workers": 0},
    "averaged weights": {"ema": True, "workers": 0},
    "accumulation and validation in mid-epoch": {"accumulate": 2, "val_check_interval": 3, "workers": 0},
    "early stopping": {"patience": 1, "min_delta": 9.0, "workers": 0},
}
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


class TinyEncoder(Encoder):
    """Four cells a picture, with dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.feature_dim = 12
        self.network = nn.Sequential(nn.Conv2d(3, 12, 16, 16), nn.BatchNorm2d(12), nn.Dropout(0.3))

    def forward(self, pixels):
        return Memory.from_grid(self.network(pixels / 255))


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


class Noise(pl.Callback):
    """Draws random numbers where they must not matter."""

    def on_validation_start(self, trainer, pl_module) -> None:
        torch.rand(7)

    def on_fit_start(self, trainer, pl_module) -> None:
        torch.rand(int.from_bytes(os.urandom(1), "big") + 1)


def train(folder: Path, setting: str, kill=None, resume: bool = False) -> dict:
    """One run; what it ends with."""
    options = {"ema": False, "accumulate": 1, "val_check_interval": 1.0, "patience": 9, "min_delta": 0.0, "workers": 2}
    options |= SETTINGS[setting]
    pl.seed_everything(0 if not resume else 1, verbose=False)  # a resumed run goes on with its own seed
    data = CaptionData(
        SyntheticShapes(folder.parent / "shapes", num_train=38, num_dev=8, size=32),
        ImageTransform(32),
        WordLevel(min_count=1),
        Augmentation(),
        batch_size=8,
        eval_batch_size=4,
        captions_per_image=2,
        num_workers=options["workers"],
    )
    torch.manual_seed(0)
    task = CaptioningTask(
        TinyEncoder(),
        lambda feature_dim, vocab_size: ShowAttendTell(feature_dim, vocab_size, embed_dim=8, hidden_dim=8),
        data.tokenizer,
        data.transform,
        optimizer=lambda parameters: torch.optim.Adam(parameters, lr=1e-2),
        schedule=WarmupCosine(warmup_steps=4),
        max_length=8,
    )
    best = ModelCheckpoint(folder, filename="best", monitor="val/nll", enable_version_counter=False)
    stopping = EarlyStopping("val/nll", patience=options["patience"], min_delta=options["min_delta"])
    callbacks = [stopping, best, Noise(), ExactResume(folder, every_n_steps=1)]
    if options["ema"]:
        callbacks.insert(0, EMAWeightAveraging(decay=0.8))
    plugin = AtomicCheckpointIO()
    if kill is not None and kill[0] == "writing":
        plugin = KilledWhileWriting(kill[2])
    elif kill is not None:
        callbacks.insert(0, Killer(*kill))
    trainer = pl.Trainer(
        default_root_dir=folder,
        max_epochs=EPOCHS,
        callbacks=callbacks,
        plugins=[plugin],
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accumulate_grad_batches=options["accumulate"],
        val_check_interval=options["val_check_interval"],
    )
    trainer.fit(task, data, ckpt_path=folder / "last.ckpt" if resume and (folder / "last.ckpt").exists() else None)
    state = torch.load(folder / "last.ckpt", weights_only=True)
    return {
        "weights": digest(task.state_dict()),
        "saved": digest(state["state_dict"]),
        "optimiser": digest(
            {str(key): value["exp_avg"] for key, value in state["optimizer_states"][0]["state"].items()}
        ),
        "schedule": state["lr_schedulers"][0]["last_epoch"],
        "epochs": trainer.current_epoch,
        "steps": trainer.global_step,
        "best": float(best.best_model_score),
        "waited": stopping.wait_count,
    }


def digest(tensors: dict) -> str:
    """A fingerprint of every bit."""
    joined = b"".join(name.encode() + tensor.numpy().tobytes() for name, tensor in sorted(tensors.items()))
    return hashlib.sha256(joined).hexdigest()[:16]


def run(folder: Path, *args) -> dict:
    """`train` in a process of its own; its result, or the signal that ended it."""
    folder.mkdir(exist_ok=True)
    result = folder / "result.json"
    result.unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        try:
            result.write_text(json.dumps(train(folder, *args)))
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
