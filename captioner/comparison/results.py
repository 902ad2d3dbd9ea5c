"""Training a variant, and what came of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from captioner.comparison.variants import Variant


@dataclass(frozen=True)
class Result:
    """What came of one training.

    Attributes:
        seed: of initial weights, order and dropout.
        config: a digest of the variant's files and changes, by which results of another budget are noticed.
        bleu4: on the validation split, 0 to 100, as all scores.
        meteor: likewise; None without Java.
        cider: likewise.
        entropy: of a word's attention, in nats: log L where a model looks everywhere alike; None without attention.
        parameters: of the decoder.
        minutes: of training, the waiting for other work on the machine included.
        cpu_minutes: of training, of all its processes and threads; on a CPU the fairer measure.
        captions_per_second: decoding the split's memories by the search of the evaluation.
    """

    seed: int
    config: str
    bleu4: float
    meteor: float | None
    cider: float
    entropy: float | None
    parameters: int
    minutes: float
    cpu_minutes: float
    captions_per_second: float


def require_same(path: Path, digest: str) -> None:
    """See that a result is of the variant as it is now.

    Raises:
        ValueError: it is not.
    """
    if json.loads(path.read_text(encoding="utf-8"))["config"] != digest:
        raise ValueError(
            f"{path} is of another config, or of another --set: rows of one table must share their budget. Choose "
            f"another --runs folder, or delete {path.parent}"
        )


def train_variant(variant: Variant, seed: int, folder: Path, changes: Sequence[str]) -> None:
    """Train in a process of its own; the minutes of every attempt are kept.

    Raises:
        RuntimeError: the training failed.
    """
    command = [sys.executable, "-m", "captioner.cli.main", "train", "fit"]
    for config in variant.configs:
        command += ["-c", str(config)]
    command += ["--seed_everything", str(seed), "--data.seed", str(seed), "--run_dir", str(folder)]
    command += [f"--{change}" for change in changes]
    if (folder / "checkpoints" / "last.ckpt").exists():
        command += ["--ckpt_path", "last"]
    print(f"{variant.name}, seed {seed}: {variant.label}", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    begin, cpu_begin = time.perf_counter(), _cpu_seconds()
    try:
        status = subprocess.run(command, check=False).returncode
    finally:
        spent = {"minutes": (time.perf_counter() - begin) / 60, "cpu_minutes": (_cpu_seconds() - cpu_begin) / 60}
        with (folder / "times.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(spent) + "\n")
    if status != 0:
        raise RuntimeError(f"{folder}: training ended with status {status}; what is done is kept, run the same again")


def _cpu_seconds() -> float:
    """What the processes begun here, now ended, have used."""
    used = os.times()
    return used.children_user + used.children_system


def evaluate_run(folder: Path, seed: int, digest: str, trust: Sequence[str]) -> Result:
    """Score a run's last weights on its validation split, from the cache that it was trained on, if any."""
    from captioner.configs import data_arguments, read_config
    from captioner.data.readers import read_data
    from captioner.evaluation import evaluate
    from captioner.metrics import write_results
    from captioner.predictors import load

    data = data_arguments(read_config(folder / "config.yaml"))
    last = folder / "checkpoints" / "last.ckpt"
    captioner = load(last, trust=trust, cache=data.get("cache_dir"), regions=data.get("regions"))
    items = read_data(str(folder / "config.yaml")).read(data["val_split"])
    evaluation = evaluate(captioner, items)
    write_results(folder / "captions.json", evaluation.captions)
    metrics = evaluation.metrics
    times = [json.loads(line) for line in (folder / "times.jsonl").read_text(encoding="utf-8").splitlines()]
    return Result(
        seed=seed,
        config=digest,
        bleu4=metrics["BLEU-4"],
        meteor=metrics.get("METEOR"),
        cider=metrics["CIDEr"],
        entropy=metrics["attention_entropy"],
        parameters=sum(parameter.numel() for parameter in captioner.model.decoder.parameters()),
        minutes=sum(attempt["minutes"] for attempt in times),
        cpu_minutes=sum(attempt["cpu_minutes"] for attempt in times),
        captions_per_second=len(items) / evaluation.decoding_seconds,
    )


def results_of(folder: Path) -> list[Result]:
    """What is there of a variant, by seed."""
    found = []
    for path in folder.glob("seed*/result.json"):
        try:
            found.append(Result(**json.loads(path.read_text(encoding="utf-8"))))
        except (TypeError, ValueError):
            raise ValueError(f"{path} is no result of this version: delete it, and it is evaluated again") from None
    return sorted(found, key=lambda result: result.seed)
