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
from captioner.files import write_whole
from captioner.texts import numbered_lines, parse_json, read_json, read_text


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


KINDS = {
    **dict.fromkeys(("seed", "parameters"), int),
    **dict.fromkeys(("bleu4", "cider", "minutes", "cpu_minutes", "captions_per_second"), int | float),
    **dict.fromkeys(("meteor", "entropy"), int | float | None),
    "config": str,
}
"""What the values of a result are."""

AGAIN = "delete it, and it is evaluated again"


def require_same(path: Path, digest: str) -> None:
    """See that a result is of the variant as it is now.

    Raises:
        ValueError: it is not.
    """
    if _read(path).config != digest:
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
        times = folder / "times.jsonl"
        before = read_text(times) if times.exists() else ""
        write_whole(times, f"{before}{json.dumps(spent)}\n")
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
    from captioner.metrics.java import find_java
    from captioner.predictors import load

    config = folder / "config.yaml"
    try:
        data = data_arguments(read_config(config))
        split = data["val_split"]
    except (KeyError, TypeError):
        raise ValueError(f"{config}: not the config of a training: it has no data.val_split") from None
    last = folder / "checkpoints" / "last.ckpt"
    captioner = load(last, trust=trust, cache=data.get("cache_dir"), regions=data.get("regions"))
    items = read_data(str(config)).read(split)
    evaluation = evaluate(captioner, items, require_meteor=find_java() is not None)  # a row without would stay so
    write_results(folder / "captions.json", evaluation.captions)
    metrics = evaluation.metrics
    minutes, cpu_minutes = _minutes(folder / "times.jsonl")
    return Result(
        seed=seed,
        config=digest,
        bleu4=metrics["BLEU-4"],
        meteor=metrics.get("METEOR"),
        cider=metrics["CIDEr"],
        entropy=metrics["attention_entropy"],
        parameters=sum(parameter.numel() for parameter in captioner.model.decoder.parameters()),
        minutes=minutes,
        cpu_minutes=cpu_minutes,
        captions_per_second=len(items) / evaluation.decoding_seconds,
    )


def _minutes(path: Path) -> tuple[float, float]:
    """What all attempts at a training took: minutes, and minutes of its processors."""
    attempts = [(where, parse_json(line, where)) for where, line in numbered_lines(path)]
    minutes, cpu_minutes = 0.0, 0.0
    for where, attempt in attempts:
        try:
            minutes, cpu_minutes = minutes + attempt["minutes"], cpu_minutes + attempt["cpu_minutes"]
        except (KeyError, TypeError):
            raise ValueError(f"{where}: not the minutes of a training; take the line out") from None
    return minutes, cpu_minutes


def results_of(folder: Path) -> list[Result]:
    """What is there of a variant, by seed."""
    return sorted(map(_read, folder.glob("seed*/result.json")), key=lambda result: result.seed)


def _read(path: Path) -> Result:
    """A result, as it was written.

    Raises:
        ValueError: it is none.
    """
    try:
        values = read_json(path)
        found = Result(**values)
        wrong = [name for name, value in values.items() if not isinstance(value, KINDS[name])]
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} is no result of this version ({error}): {AGAIN}") from None
    if wrong:
        raise ValueError(f"{path} is no result of this version ({wrong[0]} is {values[wrong[0]]!r:.100}): {AGAIN}")
    return found
