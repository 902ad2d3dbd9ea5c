"""Several processes do what one does: two of them, over gloo, against one with batches twice as large.

Every process is a fork of this one, which has imported everything, with the variables that torchrun or SLURM would set.
One run is started as by a plain command: Lightning starts its second process.
"""

from __future__ import annotations

import csv
import json
import os
import signal
import socket
import sys
import traceback
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
import yaml

import captioner
from captioner.cli.train import main

ROOT = Path(captioner.__file__).parents[1]
EPOCHS, STEPS = 4, 3
QUIET = {"enable_progress_bar": False, "enable_model_summary": False}
AVERAGED = {"class_path": "captioner.training.AveragedWeights", "init_args": {"decay": 0.5}}


class Killer(pl.Callback):
    """Ends every process as a power cut would, in mid-epoch."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if (trainer.current_epoch, batch_idx) == (2, 1):
            os.kill(os.getpid(), signal.SIGKILL)


def config(folder: Path) -> dict:
    """A small training in which all counts: words and captions per batch, clipping, a baseline, averaged weights.

    Hard attention never samples here: what is drawn by chance differs between one process and two.
    """
    hard = {"scorer": {"class_path": "captioner.models.AdditiveAttention", "init_args": {"attention_dim": 8}}}
    return {
        "save_every_n_steps": 1,
        "trainer": {
            **QUIET,
            "accelerator": "cpu",
            "max_epochs": EPOCHS,
            "gradient_clip_val": 0.5,
            "log_every_n_steps": 1,
            "callbacks": [AVERAGED],
        },
        "data": {
            "reader": {  # no multiple of two processes or of a batch
                "class_path": "captioner.data.readers.SyntheticShapes",
                "init_args": {"root": str(folder / "pictures"), "num_train": 23, "num_dev": 5, "size": 48},
            },
            "transform": {"size": 48, "fit": "squash"},
            "vocabulary": {"class_path": "captioner.tokenizer.WordLevel", "init_args": {"min_count": 1}},
            "augmentation": {"flip": 0.0, "scale": [0.8, 1.0]},
            "captions_per_image": 2,
            "eval_batch_size": 2,
            "num_workers": 0,
        },
        "model": {
            "encoder": {
                "class_path": "captioner.models.GridEncoder",
                "init_args": {
                    "name": "timm/test_efficientnet",
                    "weights": "none",
                    "output_stride": 16,
                    "trainable_from": "conv_stem",
                },
            },
            "decoder": {
                "class_path": "captioner.models.ShowAttendTell",
                "init_args": {
                    "attention": {
                        "class_path": "captioner.models.attention.HardAttention",
                        "init_args": {**hard, "sampling_probability": 0.0},
                    },
                    "embed_dim": 16,
                    "hidden_dim": 16,
                    "dropout": 0.0,
                },
            },
            "loss": {"class_path": "captioner.losses.HardAttentionLoss", "init_args": {"doubly_stochastic": 30.0}},
            "optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.5, "momentum": 0.9}},
            "search": {"class_path": "captioner.decoding.BeamSearch", "init_args": {"beam_size": 2}},
            "max_length": 8,
        },
    }


def arguments(folder: Path, name: str, processes: int, *more: str) -> list[str]:
    """The command of one run; eight images a step, of however many processes."""
    run = folder / name
    logger = {"class_path": "pytorch_lightning.loggers.CSVLogger", "init_args": {"save_dir": str(run)}}
    logger["init_args"] |= {"name": "", "version": ""}
    (folder / "config.yaml").write_text(yaml.safe_dump(config(folder)), encoding="utf-8")
    several = [f"--trainer.devices={processes}", f"--data.batch_size={8 // processes}"]
    return [
        f"-c={folder / 'config.yaml'}",
        f"--run_dir={run}",
        *several,
        f"--trainer.logger={json.dumps(logger)}",
        *more,
    ]


# ------------------------------------------------------------------------------------------ the runs


def torchrun(rank: int, num: int, port: int) -> dict[str, str]:
    """What it tells a process of several on one machine."""
    ranks = {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0, "WORLD_SIZE": num, "LOCAL_WORLD_SIZE": num}
    return {name: str(value) for name, value in ranks.items()} | {"TORCHELASTIC_RUN_ID": "none"} | address(port)


def slurm(rank: int, num: int, port: int) -> dict[str, str]:
    """What srun tells a process of machines with one process each."""
    ranks = {"SLURM_PROCID": rank, "SLURM_LOCALID": 0, "SLURM_NODEID": rank, "SLURM_NTASKS": num, "SLURM_NNODES": num}
    job = {"SLURM_JOB_ID": "1", "SLURM_JOB_NAME": "captioner", "SLURM_NTASKS_PER_NODE": "1"}
    return {name: str(value) for name, value in ranks.items()} | job | address(port)


def address(port: int) -> dict[str, str]:
    return {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}


def several(launcher, num: int) -> list[dict[str, str]]:
    """The variables of so many processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [launcher(rank, num, port) for rank in range(num)]


def run(command: list[str], environments: list[dict[str, str]]) -> list[int]:
    """`captioner train` in one forked process for each environment; their exit statuses, minus the signal if killed."""
    children = []
    for environment in environments:
        child = os.fork()
        if child == 0:
            os.environ |= environment | {"CUDA_VISIBLE_DEVICES": ""}
            sys.path.append(str(Path(__file__).parent))  # where a config finds `Killer`
            sys.argv = [str(ROOT / "scripts" / "train.py"), *command]  # what Lightning starts again,
            sys.modules["__main__"].__spec__ = None  # and not `python -m pytest`
            status = 70
            try:
                status = main(command)
            except BaseException:
                traceback.print_exc()
            os._exit(status)
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where all runs are, once they are done."""
    folder = tmp_path_factory.mktemp("runs")
    killer = {"trainer": {"callbacks": [AVERAGED, {"class_path": "test_several_processes.Killer"}]}}
    (folder / "kill.yaml").write_text(yaml.safe_dump(killer), encoding="utf-8")
    kill, nodes = f"-c={folder / 'kill.yaml'}", ("--trainer.num_nodes=2", "--data.batch_size=4")
    model = f"--ckpt_path={folder / 'one' / 'checkpoints' / 'last.ckpt'}"
    few = "--data.reader.init_args.num_dev=2"

    def command(verb: str, name: str, devices: int, *more: str) -> list[str]:
        return [verb, *arguments(folder, name, devices, *more)]

    statuses = {
        "one": run(command("fit", "one", 1), [{}]),
        "two": run(command("fit", "two", 2, "--trainer.strategy=ddp"), [{}]),
        "killed": run(command("fit", "killed", 2, kill, "--ckpt_path=last"), several(torchrun, 2)),
        "resumed": run(command("fit", "killed", 1, *nodes, "--ckpt_path=last"), several(slurm, 2)),
        "validated": run(command("validate", "validated", 2, model), several(torchrun, 2)),
        "few by three": run(command("validate", "few by three", 3, model, few), several(torchrun, 3)),
        "few by one": run(command("validate", "few by one", 1, model, few), [{}]),
    }
    assert statuses.pop("killed") == [-signal.SIGKILL] * 2
    assert not any(status for of_run in statuses.values() for status in of_run), statuses
    return folder


# ------------------------------------------------------------------------------------------ the tests


def logged(run: Path) -> dict[str, list[float]]:
    """Everything that a run has logged, by name."""
    found: dict[str, list[float]] = {}
    with open(run / "metrics.csv", newline="") as file:
        for row in csv.DictReader(file):
            for name, value in row.items():
                if value and "/" in name:
                    found.setdefault(name, []).append(float(value))
    return found


def saved(run: Path) -> dict:
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)


def test_the_curves_of_two_processes_are_those_of_one(folder):
    one, two = logged(folder / "one"), logged(folder / "two")
    assert one.keys() == two.keys()
    assert {
        "train/loss",
        "train/nll",
        "train/doubly_stochastic",
        "train/baseline",
        "val/nll",
        "val/cider",
    } <= one.keys()
    assert len(one["train/loss"]) == EPOCHS * STEPS
    assert one["train/loss"][-1] < one["train/loss"][0] - 0.5
    for name, values in one.items():
        assert two[name] == pytest.approx(values, rel=1e-5, abs=1e-5), name
    assert two["val/bleu1"][-1] > 10  # it says something


def test_the_weights_of_two_processes_are_those_of_one(folder):
    one, two = saved(folder / "one"), saved(folder / "two")
    assert two["global_step"] == one["global_step"] == EPOCHS * STEPS
    for part in ("state_dict", "current_model_state"):  # averaged, and as trained
        torch.testing.assert_close(two[part], one[part], rtol=1e-4, atol=1e-5)
    moved = max((one["state_dict"][name] - other).abs().max() for name, other in one["current_model_state"].items())
    assert moved > 1e-3


def test_two_that_were_killed_go_on_exactly(folder):
    """Started by torchrun, gone on with under SLURM on two machines: it is the two processes that matter."""
    whole, resumed = saved(folder / "two"), saved(folder / "killed")
    for part in ("state_dict", "current_model_state"):
        assert all(torch.equal(resumed[part][name], value) for name, value in whole[part].items())
    assert not list((folder / "killed").glob("hpc_ckpt*"))


def test_two_processes_validate_as_one(folder):
    one, two = logged(folder / "one"), logged(folder / "validated")
    assert two.keys() == {name for name in one if name.startswith("val/")}
    for name, values in two.items():
        assert values == pytest.approx(one[name][-1:], rel=1e-6), name


def test_a_process_without_photos_of_its_own_changes_nothing(folder):
    one, three = logged(folder / "few by one"), logged(folder / "few by three")
    assert "val/nll" in one
    assert three == {name: pytest.approx(values, rel=1e-6) for name, values in one.items()}


def test_one_process_writes(folder):
    assert {path.name for path in (folder / "two").iterdir()} == {"checkpoints", "config.yaml", "metrics.csv"}
    names = sorted(path.name for path in (folder / "two" / "checkpoints").iterdir())
    assert len(names) == 2
    assert names[1] == "last.ckpt"
