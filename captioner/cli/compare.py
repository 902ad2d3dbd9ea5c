"""`captioner compare`: train every variant of a config under the same budget, and make one table of them.

A config `NAME.yaml` is the first variant; each file in the folder `NAME/` beside it is another, and says what it
changes. A variant's label is its first line, a comment. What is done already is not done again, and a training that
was cut off goes on where it was.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, stdev

from captioner.cli.common import add_trust

RANKED_FROM = 3  # seeds


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "config", metavar="CONFIG", help="the first variant; a folder of the same name holds the others"
    )
    parser.add_argument("--only", nargs="+", metavar="NAME", help="some variants: their files' names, without .yaml")
    parser.add_argument(
        "--seeds", nargs="+", type=int, default=[0], metavar="N", help="train each with these (default 0)"
    )
    parser.add_argument("--runs", default="runs", metavar="DIR", help="the folder for all runs (default runs)")
    parser.add_argument("--output", metavar="FILE", help="write the table to a Markdown file, too")
    parser.add_argument("--figure", metavar="FILE", help="draw where each variant looks in one photo, see --photo")
    parser.add_argument("--photo", metavar="PHOTO", help="the photo of the figure")
    parser.add_argument("--caption", metavar="TEXT", help="the caption of the figure, for all variants")
    add_trust(parser)
    parser.add_argument(
        "--table-only", action="store_true", help="train nothing: the table and figure of what is there"
    )
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="KEY=VALUE", help="change all variants (data.reader.init_args.root=...)"
    )


@dataclass(frozen=True)
class Variant:
    """One config of a comparison.

    Attributes:
        label: what the table calls it.
        group: the heading that it stands under; none for the first.
        name: of its runs' folder.
        configs: files, of which later ones change earlier ones.
    """

    label: str
    group: str
    name: str
    configs: tuple[Path, ...]


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


def run(args: argparse.Namespace) -> int:
    """Train, evaluate, and print the table."""
    if (args.figure is None) != (args.photo is None) or (args.figure is not None and args.caption is None):
        raise ValueError("a figure needs --figure FILE, --photo PHOTO and --caption TEXT together")
    variants = find_variants(Path(args.config))
    if args.only:
        known = {Path(variant.name).name for variant in variants}
        unknown = ", ".join(name for name in args.only if name not in known)
        if unknown:
            raise ValueError(f"no variant {unknown}; there are: {', '.join(sorted(known))}")
        variants = [variant for variant in variants if Path(variant.name).name in args.only]
    runs = Path(args.runs)
    if not args.table_only:
        for seed in args.seeds:
            for variant in variants:
                folder = runs / variant.name / f"seed{seed}"
                digest = _digest(variant, args.set)
                if (folder / "result.json").exists():
                    _require_same(folder / "result.json", digest)
                    continue
                _train(variant, seed, folder, args.set)
                result = _evaluate(folder, seed, digest, args.trust)
                (folder / "result.json").write_text(json.dumps(asdict(result), indent=2) + "\n", encoding="utf-8")
    results = {variant.name: _results(runs / variant.name) for variant in variants}
    missing = [f"{name} (no seed done)" for name, found in results.items() if not found]
    if missing:
        print(f"captioner: not in the table: {', '.join(missing)}", file=sys.stderr)
    text = table([(variant, results[variant.name]) for variant in variants if results[variant.name]])
    print(text, end="")
    if args.output:
        Path(args.output).parent.mkdir(parents=True, exist_ok=True)
        Path(args.output).write_text(text, encoding="utf-8")
    if args.figure:
        _draw(variants, runs, args.photo, args.caption, Path(args.figure), args.trust)
    return 0


def find_variants(config: Path) -> list[Variant]:
    """The variants of a config: itself, then the files of the folder beside it, by folder and name.

    Raises:
        FileNotFoundError: there is no such config.
        ValueError: two of them have one name, by which their runs would be mixed up.
    """
    first = Variant(_label(config), "", f"{config.stem}/{config.stem}", (config,))
    folder = config.with_suffix("")
    variants = [
        first,
        *(
            Variant(
                _label(path),
                path.parent.name if path.parent != folder else "",
                f"{config.stem}/{path.stem}",
                (config, path),
            )
            for path in sorted(folder.rglob("*.yaml"))
        ),
    ]
    names = [variant.name for variant in variants]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise ValueError(f"{folder}: two variants are called {Path(twice).name}: rename one")
    return variants


def _digest(variant: Variant, changes: Sequence[str]) -> str:
    """A fingerprint of all that a variant is trained by, but its seed and comments."""
    import yaml

    configs = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in variant.configs]
    return hashlib.sha256(json.dumps([configs, sorted(changes)], sort_keys=True).encode()).hexdigest()[:16]


def _require_same(path: Path, digest: str) -> None:
    if json.loads(path.read_text(encoding="utf-8"))["config"] != digest:
        raise ValueError(
            f"{path} is of another config, or of another --set: rows of one table must share their budget. Choose "
            f"another --runs folder, or delete {path.parent}"
        )


def _label(config: Path) -> str:
    """The first line of a config, a comment."""
    line = config.read_text(encoding="utf-8").partition("\n")[0]
    return line.removeprefix("#").strip() if line.startswith("#") else config.stem


def _train(variant: Variant, seed: int, folder: Path, changes: Sequence[str]) -> None:
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


def _evaluate(folder: Path, seed: int, digest: str, trust: Sequence[str]) -> Result:
    """Score a run's last weights on its validation split, from the cache that it was trained on, if any."""
    import yaml

    from captioner.cli.common import read_data
    from captioner.evaluation import evaluate
    from captioner.metrics import write_results
    from captioner.predictor import load

    data = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))["data"]
    data = data["init_args"] if "class_path" in data else data
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


def _results(folder: Path) -> list[Result]:
    """What is there of a variant, by seed."""
    found = []
    for path in folder.glob("seed*/result.json"):
        try:
            found.append(Result(**json.loads(path.read_text(encoding="utf-8"))))
        except (TypeError, ValueError):
            raise ValueError(f"{path} is no result of this version: delete it, and it is evaluated again") from None
    return sorted(found, key=lambda result: result.seed)


def table(rows: Sequence[tuple[Variant, list[Result]]]) -> str:
    """The results as Markdown; a place among those of three seeds and more, by CIDEr, for those alone."""
    ranked = [variant.name for variant, results in rows if len(results) >= RANKED_FROM]
    cider = {variant.name: mean(result.cider for result in results) for variant, results in rows}
    places = {name: str(i) for i, name in enumerate(sorted(ranked, key=lambda name: -cider[name]), start=1)}
    columns = ["", "seeds", "BLEU-4", "METEOR", "CIDEr", "place", "entropy", "decoder's parameters"]
    columns += ["minutes", "CPU minutes", "captions/s"]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    group = ""
    for variant, results in rows:
        if variant.group != group:
            group = variant.group
            lines.append(f"| **{group}** {'| ' * len(columns)}".rstrip())
        scores = [_spread(getattr(result, name) for result in results) for name in ("bleu4", "meteor", "cider")]
        lines.append(
            f"| {variant.label} | {len(results)} | {' | '.join(scores)} | {places.get(variant.name, '')} "
            f"| {_spread([results[0].entropy])} "
            f"| {results[0].parameters / 1e6:.2f} M | {mean(result.minutes for result in results):.1f} "
            f"| {mean(result.cpu_minutes for result in results):.1f} "
            f"| {mean(result.captions_per_second for result in results):.0f} |"
        )
    return "\n".join(lines) + "\n"


def _spread(values: Iterable[float | None]) -> str:
    """The mean, with the standard deviation where there are several; a dash where something was not measured."""
    numbers = [value for value in values if value is not None]
    if not numbers:
        return "–"
    return f"{mean(numbers):.2f} ± {stdev(numbers):.2f}" if len(numbers) > 1 else f"{numbers[0]:.2f}"


def _draw(
    variants: Sequence[Variant], runs: Path, photo: str, caption: str, output: Path, trust: Sequence[str]
) -> None:
    """One row of maps for each variant that was trained and attends, of its first seed."""
    from captioner.data.images import open_image
    from captioner.heatmaps import comparison_figure
    from captioner.predictor import load

    rows = []
    for variant in variants:
        checkpoints = sorted((runs / variant.name).glob("seed*/checkpoints/last.ckpt"))
        if checkpoints:
            look = load(checkpoints[0], trust=trust).look(photo, caption)
            if look.looks:
                rows.append((variant.label, look.maps))
    if not rows:
        raise ValueError(f"{runs}: no variant was trained here that attends")
    output.parent.mkdir(parents=True, exist_ok=True)
    comparison_figure(open_image(photo), rows).save(output)
