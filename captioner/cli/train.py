"""The training door: LightningCLI over `CaptioningTask` and the data, with one folder per run.

    python scripts/train.py fit -c configs/flickr8k_cpu.yaml [--model.decoder.init_args.gate vector ...]

The data are `CaptionData`, whose arguments stand under `data` as they are; or what `data.class_path` names (such as
`TextData`), with its arguments under `data.init_args`.

A run's folder (`--run_dir`) holds `config.yaml`, TensorBoard's events and `checkpoints/`: the best by the
monitored metric, and `last.ckpt`, from which `--ckpt_path last` goes on exactly.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import sys
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning import LightningDataModule
from pytorch_lightning.callbacks import (
    EarlyStopping,
    LearningRateMonitor,
    ModelCheckpoint,
    ProgressBar,
    TQDMProgressBar,
)
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from captioner.cli.arguments.training import fault
from captioner.cli.warned import warn_in_one_line
from captioner.configs import present_argument, register_parser_mode, require_parts
from captioner.configs.faults import said_by_part
from captioner.tasks.captioning import (
    CaptionData,
    CaptioningTask,
    SampleCaptions,
    TextData,  # noqa: F401 (so that a config may name it without its module)
)
from captioner.texts import read_yaml
from captioner.training import AtomicCheckpointIO, ExactResume, Trainer
from captioner.training.run_folder import (
    ConfigOfRun,
    checkpoint_folder,
    held,
    require_watchable,
    what_came_of_it,
)

BATCHES_BETWEEN_LOOKS = 20  # at the loss, on a GPU


class TrainingCLI(LightningCLI):
    """One `run_dir` for all that a run writes, and the links between data and model."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the run's folder, the callbacks that every run has, and the links."""
        parser.add_argument("--run_dir", default="runs/default", help="the folder of this run")
        parser.add_lightning_class_args(ModelCheckpoint, "best")
        parser.add_lightning_class_args(EarlyStopping, "stopping")
        parser.add_lightning_class_args(SampleCaptions, "samples")
        parser.set_defaults(
            {
                "best.filename": "best-{epoch:02d}-{val/cider:.2f}",
                "best.auto_insert_metric_name": False,
                "best.enable_version_counter": False,
                "best.monitor": "val/cider",
                "best.mode": "max",
                "stopping.monitor": "val/cider",
                "stopping.mode": "max",
                "stopping.patience": 10,
            }
        )
        parser.add_argument("--save_every_n_steps", type=int, default=200, help="optimiser steps between two last.ckpt")
        parser.link_arguments("run_dir", "trainer.default_root_dir")
        parser.link_arguments("run_dir", "best.dirpath", compute_fn=checkpoint_folder)
        parser.link_arguments("data.tokenizer", "model.tokenizer", apply_on="instantiate")
        parser.link_arguments("data.transform", "model.transform", apply_on="instantiate")

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Those that there are data for; see Lightning's."""
        every = LightningCLI.subcommands()
        return {name: every[name] for name in ("fit", "validate")}

    def _parse_ckpt_path(self) -> None:
        """Take no arguments from a checkpoint, as Lightning does: a stranger's could have any class built."""

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """A parser that raises its errors, for `main` to say them in one line."""
        return super().init_parser(exit_on_error=False, allow_abbrev=False, **kwargs)

    def instantiate_classes(self) -> None:
        """Build all parts; what goes wrong there is for the user to mend (a download that failed, say)."""
        require_parts(self.config[self.subcommand], sections(self.subclass_mode_data))
        try:
            super().instantiate_classes()
        except (RuntimeError, ValueError) as error:
            raise ValueError(said_by_part(error)) from error

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """A trainer that logs and saves into the run's folder, and can be resumed exactly."""
        config = self.config[self.subcommand]
        trainer = config.trainer
        if trainer.logger is None or trainer.logger is True:
            kwargs["logger"] = TensorBoardLogger(config.run_dir, name="", version="")
        kwargs["plugins"] = [AtomicCheckpointIO(), *_listed(self.config_init[self.subcommand].trainer.plugins)]
        # Trainer defaults come after all other callbacks, as ExactResume needs it.
        self.trainer_defaults["callbacks"] = [
            *self._progress_bars(),
            *([] if trainer.logger is False else [LearningRateMonitor()]),
            ExactResume(checkpoint_folder(config.run_dir), config.save_every_n_steps),
        ]
        try:
            return super().instantiate_trainer(**kwargs)
        except TypeError as error:  # devices=[a], say
            raise ValueError(f"the trainer cannot be made of its arguments: {error}") from error

    def _progress_bars(self) -> list[ProgressBar]:
        """With a GPU, a bar that looks at the loss now and then: each look waits for the GPU. None if one is given."""
        trainer = self.config_init[self.subcommand].trainer
        own = any(isinstance(callback, ProgressBar) for callback in _listed(trainer.callbacks))
        wanted = torch.cuda.is_available() and not own and trainer.enable_progress_bar is not False
        return [TQDMProgressBar(BATCHES_BETWEEN_LOOKS)] if wanted else []

    def fit(self, model: CaptioningTask, **kwargs: Any) -> None:
        """Train, in a folder that no other training is using; say what came of it."""
        config = self.config[self.subcommand]
        writes = self.trainer.is_global_zero and not self.trainer.fast_dev_run  # type: ignore[attr-defined]
        require_watchable(self.trainer, model.validates)
        with held(config.run_dir) if writes else nullcontext():
            self._require_room()
            self.trainer.fit(model, **kwargs)
        if writes:
            print(what_came_of_it(self.trainer, reads_text=model.transform.reads == "sentences"))

    def before_validate(self) -> None:
        """Do not validate random weights by mistake."""
        config = self.config[self.subcommand]
        if config.ckpt_path is None and config.model.get("init_from") is None:
            raise ValueError("validate needs weights: give --ckpt_path (last, or a run's .ckpt file)")

    def _require_room(self) -> None:
        """Do not train over an earlier run by mistake, nor as many trainings as there should be processes of one."""
        started = int(os.environ.get("WORLD_SIZE", "1"))
        if "TORCHELASTIC_RUN_ID" in os.environ and started != self.trainer.world_size:
            raise ValueError(
                f"torchrun started {started} processes, and the trainer is of {self.trainer.world_size}: give "
                "--trainer.devices (processes of a node) and --trainer.num_nodes as torchrun has them"
            )
        config = self.config[self.subcommand]
        last = Path(checkpoint_folder(config.run_dir)) / "last.ckpt"
        if last.exists() and config.ckpt_path is None:
            raise ValueError(
                f"{config.run_dir} holds a run already: go on with it by --ckpt_path last, or choose another --run_dir"
            )


def sections(any_data: bool) -> dict[str, Any]:
    """What each section of a config is for; see `names_its_data`."""
    return {
        "seed_everything": bool | int | None,
        "run_dir": str,
        "save_every_n_steps": int,
        "trainer": Trainer,
        "model": CaptioningTask,
        "data": LightningDataModule if any_data else CaptionData,
        "best": ModelCheckpoint,
        "stopping": EarlyStopping,
        "samples": SampleCaptions,
        "ckpt_path": str | None,
        "weights_only": bool | None,  # of Lightning; checkpoints are never read otherwise
        "config": str,
        "print_config": Any,
    }


def _listed(given: Any) -> list[Any]:
    """What a config has of a kind: a list of them, one by itself, or none."""
    return list(given) if isinstance(given, list | tuple) else [] if given is None else [given]


NOISE = (  # what Lightning says of every run, and what is meant to be so
    "Tip: For seamless cloud",
    "`weights_only` was not set",
    "TPU available",
    "LeafSpec",
    r"Found \d+ module\(s\) in eval mode",  # a frozen encoder, and batch normalisation always
    "LightningCLI's args parameter is intended to run from within Python",
)


def quieten() -> None:
    """Leave out the lines of Lightning's that tell a user nothing."""
    warnings.filterwarnings("ignore", message=f".*({'|'.join(NOISE)})")
    warn_in_one_line()
    for library in ("pytorch_lightning", "lightning_fabric"):
        for handler in logging.getLogger(library).handlers:
            handler.addFilter(_is_no_noise)


def _is_no_noise(record: logging.LogRecord) -> bool:
    return re.search("|".join(NOISE), record.getMessage()) is None


def names_its_data(arguments: Sequence[str]) -> bool:
    """Whether `data` is a class of one's choice: by the first config with `data.class_path`, or by an argument.

    LightningCLI has one form for one class, with its arguments as they are, and another for any class; which of them it
    is must be known before anything is parsed.
    """
    if any(re.match(r"--data(\.class_path)?(=|$)", argument) for argument in arguments):
        return True
    for path in configs_in(arguments):
        try:
            config = read_yaml(path)
        except (OSError, ValueError):
            continue  # LightningCLI says what is wrong with it
        data = config.get("data") if isinstance(config, dict) else None
        if isinstance(data, dict) and "class_path" in data:
            return True
    return False


def configs_in(arguments: Sequence[str]) -> list[str]:
    """The configs that a command line names."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("-c", "--config", action="append", nargs="?", default=[], const="")
    return parser.parse_known_args(arguments)[0].config


def main(arguments: Sequence[str] | None = None) -> int:
    """Run LightningCLI; returns the exit status (2 for an error that stopped it)."""
    quieten()
    arguments = list(map(present_argument, sys.argv[1:] if arguments is None else arguments))
    for path in configs_in(arguments):
        if path.endswith((".yaml", ".yml", ".json")) and not Path(path).is_file():
            print(f"captioner: error: {path}: no such config", file=sys.stderr)
            return 2
    any_data = names_its_data(arguments)
    try:
        TrainingCLI(
            CaptioningTask,
            LightningDataModule if any_data else CaptionData,
            subclass_mode_data=any_data,
            args=arguments,
            seed_everything_default=0,
            auto_configure_optimizers=False,
            trainer_class=Trainer,
            save_config_callback=ConfigOfRun,
            parser_kwargs={
                "prog": "captioner train",
                "description": "Train a captioning model, or validate one: fit -c CONFIG, see docs/training.md.",
                "parser_mode": register_parser_mode(),
            },
        )
    except (argparse.ArgumentError, UnicodeDecodeError) as error:
        print(f"captioner: error: {fault(arguments, sections(any_data), error)}", file=sys.stderr)
        return 2
    except (ValueError, OSError, MisconfigurationException) as error:
        print(f"captioner: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("captioner: interrupted", file=sys.stderr)
        return 130
    return 0
