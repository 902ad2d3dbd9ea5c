"""`python -m benchmarks.short_training`: a training as good as fits into some seconds, on a machine lent for minutes.

    python -m benchmarks.short_training --photos photos.zip --output runs/short --seconds 180
    python -m benchmarks.short_training --quick --output /tmp/short     a rehearsal: drawn shapes, tiny sizes
    python -m benchmarks.short_training --join runs/short               puts the model's pieces together again

`benchmarks/pack.py` writes the photos. The encoder of a model, all of it, is trained together with a new decoder; how
many epochs there is time for is found by timing a few steps. The same command resumes a training that was cut. Without
pycocoevalcap, captions are scored when the pieces are joined.
"""

from __future__ import annotations

import argparse
import copy
import importlib.metadata
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from benchmarks import machine, pieces
from benchmarks.deadline import OutOfTimeError, Progress, Timing, UntilDeadline
from benchmarks.pack import in_one_line
from benchmarks.short_parts import (
    QUICK,
    Settings,
    ShortTask,
    can_score,
    choose_device,
    make_data,
    make_encoder,
    make_task,
    make_trainer,
    quiet,
)
from captioner.checkpoint import load_model, save_model
from captioner.cli.allocator import keep_freed_memory
from captioner.cli.arguments.photos import positive
from captioner.data.batches import move
from captioner.decoding import BeamSearch, GreedySearch, Search
from captioner.files import locked, write_whole
from captioner.losses import CaptionLoss
from captioner.metrics import quick_score
from captioner.predictors import SHIPPED_MODEL, Captioner, Wording
from captioner.tasks.captioning import CaptionData
from captioner.training import AveragedWeights

MODEL, RESULT, PLAN, CAPTIONS = "model.safetensors", "result.json", "plan.json", "captions.json"
MAX_EPOCHS = 30
SHARE_OF_TIMING = 0.05  # of all seconds, for the first steps, and again for those that are timed
LOSSES = 1.05  # times its steps is what an epoch takes: it begins, and is saved now and then
WRITING_SECONDS = 3.0  # to write a checkpoint and the model, and to read them again
SCORING_SECONDS = 0.002  # of the captions of a photo
LAST_VALIDATION = 5  # times as long as that of an epoch, which is greedy, and not in float32
SEARCHES: dict[str, Search] = {"greedy": GreedySearch(), "beam 3": BeamSearch(3, 0.8)}
AT_ONCE = partial(print, flush=True)
LIBRARIES = ("torchvision", "timm", "pytorch-lightning", "pillow")  # whose versions are noted, too


@dataclass(frozen=True)
class Plan:
    """How long to train; a training that is resumed keeps to it.

    Attributes:
        max_epochs: of the whole training.
        steps_per_epoch: optimiser steps.
        seconds_per_step: as measured; None where the epochs were given.
        seconds_at_the_end: to keep for the last validation and for writing.
        made_for: data, encoder and settings, with which alone it is resumed.
    """

    max_epochs: int
    steps_per_epoch: int
    seconds_per_step: float | None
    seconds_at_the_end: float
    made_for: dict[str, Any]

    @property
    def num_steps(self) -> int:
        """Of the whole training."""
        return self.max_epochs * self.steps_per_epoch

    @property
    def decay(self) -> float:
        """Of the averaged weights: they look back over a fifth of the training, or 500 steps if that is less."""
        return min(0.998, max(0.0, 1 - 5 / self.num_steps))


def train(
    output: str | Path,
    photos: str | Path | None = None,
    seconds: float = 180.0,
    model: str | Path | None = None,
    device: str = "auto",
    quick: bool = False,
    max_epochs: int | None = None,
    compile: bool = False,
    cuda_graphs: bool | None = None,
    say: Callable[[str], None] = AT_ONCE,
) -> dict[str, Any]:
    """Train for some seconds, and write the model and what is to be known of it.

    The folder then holds `model.safetensors`, its pieces, `captions.json` and `result.json`; and `plan.json` and
    `checkpoints/`, from which the training is resumed.

    Args:
        output: the folder of the training. One that was cut is resumed, one that is finished is not repeated.
        photos: what `benchmarks/pack.py` wrote; None, which only goes with `quick`, draws shapes.
        seconds: for everything, from now on until all is written.
        model: the model file whose encoder to train; by default the one that ships, and with `quick` a tiny CNN.
        device: "auto" (a GPU if there is one), "cpu" or "cuda".
        quick: whether to take the tiny sizes, for a rehearsal.
        max_epochs: how many epochs to plan; by default as many as there is time for, 30 at most.
        compile: see `CaptioningTask`.
        cuda_graphs: passed on to `CaptioningTask`, unless it is None.
        say: is told how it goes, line by line.

    Returns:
        What `result.json` holds: `finished`, `epochs` and `steps` that were trained; `photos_per_second` and
        `captions_per_second` of the training steps; `val`, the likelihood per word in nats and the scores, 0 to 100,
        of each search (None if they cannot be computed here); `peak_gpu_mb`; `model`, for `pieces.join`; and more.

    Raises:
        ValueError: photos, a model or a device that cannot be used; or the folder holds another training.
        FileNotFoundError: the photos are missing.
    """
    began = time.monotonic()
    settings, folder = QUICK if quick else Settings(), Path(output)
    if photos is None and not quick:
        raise ValueError("--photos ZIP is required: what benchmarks/pack.py wrote (--quick alone draws shapes)")
    zip_file = None if photos is None else Path(photos)
    model_file = (None if quick else SHIPPED_MODEL) if model is None else Path(model)
    where = choose_device(device)
    with locked(folder), quiet():
        made_for = _made_for(zip_file, model_file, settings)
        plan = _known_plan(folder, made_for)
        result = _finished(folder) if plan is not None else None
        if result is not None:
            say(f"{folder}: this training is finished already; choose another --output for a new one")
            return result
        pl.seed_everything(settings.seed, verbose=False)
        data = make_data(zip_file, folder, settings)
        task = make_task(data, make_encoder(model_file, settings), settings, compile, cuda_graphs)
        if plan is None:
            plan = _make_plan(task, data, where, folder, seconds, began, max_epochs, made_for)
            write_whole(folder / PLAN, _json(asdict(plan)))
        say(_headline(plan, data, where))
        progress = Progress(say)
        peak = _fit(task, data, where, folder, plan, progress, began + seconds - plan.seconds_at_the_end)
        result = {**_finish(folder, data, where, plan), **progress.rates(), "peak_gpu_mb": peak}
        result["wall_seconds"] = round(time.monotonic() - began, 1)
        write_whole(folder / RESULT, _json(result))
        say(_last_line(folder, result))
    return result


# ------------------------------------------------------------------------------------------ the plan


def _made_for(zip_file: Path | None, model_file: Path | None, settings: Settings) -> dict[str, Any]:
    """What a training is resumed with, and nothing else: where it runs may change."""
    if zip_file is not None and not zip_file.is_file():
        raise FileNotFoundError(f"{zip_file}: no such file; benchmarks/pack.py writes it")
    if model_file is not None and not model_file.is_file():
        raise FileNotFoundError(f"{model_file}: no such model file")
    files = {"photos": zip_file, "model": model_file}
    digests = {name: file and pieces.digest_of(file.read_bytes()) for name, file in files.items()}
    sizes = {name: value for name, value in asdict(settings).items() if name != "num_workers"}
    return {**digests, **sizes}


def _known_plan(folder: Path, made_for: dict[str, Any]) -> Plan | None:
    """The plan of the training in a folder; None if there is none yet."""
    if not (folder / PLAN).is_file():
        return None
    try:
        plan = Plan(**json.loads((folder / PLAN).read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{folder / PLAN}: damaged ({error}); choose another --output, or remove this folder"
        ) from error
    if plan.made_for != made_for:
        changed = [name for name, value in made_for.items() if plan.made_for.get(name) != value]
        raise ValueError(f"{folder} holds a training with other {' and '.join(changed)}: choose another --output")
    return plan


def _make_plan(
    task: ShortTask,
    data: CaptionData,
    device: torch.device,
    folder: Path,
    seconds: float,
    began: float,
    max_epochs: int | None,
    made_for: dict[str, Any],
) -> Plan:
    """As many epochs as fit, with a validation after every second one; a few steps of a copy are timed for that."""
    num_photos, num_validated = (len(data.items(split)) for split in (data.train_split, data.val_split))
    steps_per_epoch = math.ceil(num_photos / data.batch_size)
    if max_epochs is not None:
        return Plan(max_epochs, steps_per_epoch, None, WRITING_SECONDS, made_for)
    timing = Timing(SHARE_OF_TIMING * seconds, data.num_workers, task.compiles)
    copied, options = copy.deepcopy(task), {"max_epochs": 1000, "enable_checkpointing": False}  # a few steps of these
    make_trainer(device, folder, [AveragedWeights(), timing], limit_val_batches=0, **options).fit(copied, data)
    make_trainer(device, folder, [timing], limit_val_batches=2, **options).validate(copied, data, verbose=False)
    num_batches = math.ceil(num_validated / data.eval_batch_size)
    validation = num_batches * timing.per_validation_batch + num_validated * SCORING_SECONDS
    at_the_end = WRITING_SECONDS + LAST_VALIDATION * validation
    epoch = LOSSES * steps_per_epoch * timing.per_step + validation / 2
    left = began + seconds - time.monotonic() - timing.starting - at_the_end
    return Plan(min(MAX_EPOCHS, max(1, int(left / epoch))), steps_per_epoch, timing.per_step, at_the_end, made_for)


def _headline(plan: Plan, data: CaptionData, device: torch.device) -> str:
    numbers = " and ".join(f"{len(data.items(split)):,} {split}" for split in (data.train_split, data.val_split))
    measured = "" if plan.seconds_per_step is None else f" of {1000 * plan.seconds_per_step:,.0f} ms each"
    side, words = data.transform.size, data.tokenizer.vocab_size
    return (
        f"{numbers} photos of {side} x {side} pixels, {words:,} words, on {device.type}: {plan.max_epochs} epochs of "
        f"{plan.steps_per_epoch} steps{measured}"
    )


# ------------------------------------------------------------------------------------------ the training


def _fit(
    task: ShortTask,
    data: CaptionData,
    device: torch.device,
    folder: Path,
    plan: Plan,
    progress: Progress,
    deadline: float,
) -> float | None:
    """Train until the plan is done or the deadline has passed; returns the peak of a GPU's memory, in MB."""
    ending = UntilDeadline(folder / "checkpoints", deadline)
    trainer = make_trainer(
        device,
        folder,
        [AveragedWeights(plan.decay), progress, ending],
        max_epochs=plan.max_epochs,
        check_val_every_n_epoch=2,
    )
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    try:
        trainer.fit(task, data, ckpt_path=ending.path if ending.path.is_file() else None)
    except OutOfTimeError:
        progress.say(f"the time is up after {trainer.global_step:,} of {plan.num_steps:,} steps; run again to go on")
    return round(torch.cuda.max_memory_allocated(device) / 1e6, 1) if device.type == "cuda" else None


def _finish(folder: Path, data: CaptionData, device: torch.device, plan: Plan) -> dict[str, Any]:
    """Write the model of the last checkpoint, whose weights are the averaged ones, and caption with it."""
    bundle = load_model(folder / "checkpoints" / "last.ckpt")
    steps = bundle.provenance["step"]
    bundle.provenance["config"] = {"benchmarks.short_training": {**plan.made_for, "max_epochs": plan.max_epochs}}
    save_model(bundle, folder / MODEL, "float16", include_encoder=True)
    described = pieces.split(folder / MODEL)
    nll, captions = _caption(Captioner(load_model(folder / MODEL), str(device)), data)
    references = {item.key: item.captions for item in data.items(data.val_split)}
    write_whole(folder / CAPTIONS, _json({"references": references, "captions": captions}))
    versions = {name: importlib.metadata.version(name) for name in LIBRARIES}
    return {
        "finished": steps == plan.num_steps,
        "epochs": round(steps / plan.steps_per_epoch, 2),
        "max_epochs": plan.max_epochs,
        "steps": steps,
        "seconds_per_step": plan.seconds_per_step,
        "photos": {split: len(data.items(split)) for split in (data.train_split, data.val_split)},
        "side": data.transform.size,
        "vocab_size": data.tokenizer.vocab_size,
        "val": {"nll": nll, **_scores(references, captions)},
        "model": described,
        "made_for": plan.made_for,
        "machine": {**machine.describe(device, torch.get_num_threads()), **versions},
    }


def _caption(captioner: Captioner, data: CaptionData) -> tuple[float, dict[str, dict[int | str, str]]]:
    """The validation photos' likelihood per word, in nats, and their captions by each search."""
    captions: dict[str, dict[int | str, str]] = {name: {} for name in SEARCHES}
    model, rules = captioner.model, Wording().rules(captioner.tokenizer)
    loss = CaptionLoss(doubly_stochastic=0.0).eval()
    nll = words = 0.0
    with captioner.computing():
        for batch in data.val_dataloader():
            batch = move(batch, captioner.device)
            memory = model.encode(batch.source)
            likelihood = loss(model.decoder(memory, batch.tokens, batch.lengths), batch.tokens[..., 1:]).logs["nll"]
            nll, words = nll + likelihood.total.item(), words + likelihood.number.item()
            for name, search in SEARCHES.items():
                found = search(*model.decoder.begin(memory), rules)
                for item, hypotheses in zip(batch.items, found, strict=True):
                    captions[name][item.key] = captioner.tokenizer.decode(hypotheses[0].tokens)
    keys = [item.key for item in data.items(data.val_split)]  # batches have another order
    return nll / words, {name: {key: of_search[key] for key in keys} for name, of_search in captions.items()}


def _scores(references: dict, captions: dict[str, dict]) -> dict[str, dict[str, float | None] | None]:
    """BLEU and CIDEr of each search's captions, 0 to 100; None where they cannot be computed."""
    if not can_score():
        return dict.fromkeys(captions)
    scores = {name: quick_score(references, of_search).metrics() for name, of_search in captions.items()}
    return {
        name: {key: value for key, value in of_search.items() if value is not None}
        for name, of_search in scores.items()
    }


# ------------------------------------------------------------------------------------------ afterwards


def join(folder: str | Path) -> Path:
    """Put the model's pieces together again, beside the `result.json` that came with them; returns the model file.

    Raises:
        FileNotFoundError: `result.json` or a piece is missing.
        ValueError: one of them is damaged.
    """
    return pieces.join(_result(Path(folder))["model"], folder)


def score(folder: str | Path) -> dict[str, Any]:
    """The result of a training, with scores; if it has none they are computed now of `captions.json`, and written.

    Raises:
        FileNotFoundError, ValueError: see `join`.
    """
    folder = Path(folder)
    result, file = _result(folder), folder / CAPTIONS
    if can_score() and file.is_file() and None in result["val"].values():
        told = json.loads(file.read_text(encoding="utf-8"))
        result["val"] |= _scores(told["references"], told["captions"])
        write_whole(folder / RESULT, _json(result))
    return result


def _result(folder: Path) -> dict[str, Any]:
    file = folder / RESULT
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file; a training writes it when it ends")
    try:
        result = json.loads(file.read_text(encoding="utf-8"))
        return {**result, "model": dict(result["model"]), "val": dict(result["val"])}
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{file}: damaged ({error!r}); copy it again") from error


def _finished(folder: Path) -> dict[str, Any] | None:
    """The result of a training that is finished."""
    result = _result(folder) if (folder / RESULT).is_file() else {}
    return result if result.get("finished") else None


def _last_line(folder: Path, result: dict[str, Any]) -> str:
    figures = [f"val nll {result['val']['nll']:.3f}"]
    figures += [f"{name} CIDEr {result['val'][name]['CIDEr']:.1f}" for name in SEARCHES if result["val"][name]]
    return f"{folder / MODEL}: {result['steps']:,} steps, {', '.join(figures)}, {result['model']['bytes']:,} bytes"


def _json(values: dict[str, Any]) -> str:
    return json.dumps(values, indent=1) + "\n"


# ------------------------------------------------------------------------------------------ the command line


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Train a captioning model as well as fits into some seconds.")
    parser.add_argument("--photos", type=Path, metavar="ZIP", help="what benchmarks/pack.py wrote")
    parser.add_argument("--output", type=Path, metavar="DIR", help="the folder of the training")
    parser.add_argument("--seconds", type=float, default=180.0, metavar="S", help="for everything (default 180)")
    parser.add_argument(
        "--model", type=Path, metavar="M", help="whose encoder to train; default: the model that ships with captioner"
    )
    parser.add_argument(
        "--device", default="auto", choices=("auto", "cpu", "cuda"), help="default: a GPU if there is one"
    )
    parser.add_argument("--epochs", type=positive, metavar="N", help="default: as many as there is time for")
    parser.add_argument("--compile", action="store_true", help="compile the decoder")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to rehearse it")
    parser.add_argument("--join", type=Path, metavar="DIR", help="put a model's pieces together again, no more")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, or join; 2 for an error that stopped it."""
    keep_freed_memory()
    args = parse(arguments)

    def work() -> int:
        if args.join is not None:
            join(args.join)
            print(_last_line(args.join, score(args.join)))
            return 0
        if args.output is None:
            raise ValueError("--output DIR is required: the folder to write the model to")
        options = (args.photos, args.seconds, args.model, args.device, args.quick, args.epochs, args.compile)
        train(args.output, *options)
        return 0

    return in_one_line(work)


if __name__ == "__main__":
    sys.exit(main())
