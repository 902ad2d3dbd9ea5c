"""The results as a table and as a figure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import mean, stdev

from captioner.comparison.results import Result
from captioner.comparison.variants import Variant
from captioner.files import whole_file

RANKED_FROM = 3  # seeds


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


def draw_maps(
    variants: Sequence[Variant], runs: Path, photo: str, caption: str, output: Path, trust: Sequence[str]
) -> None:
    """One row of maps for each variant that was trained and attends, of its first seed."""
    from PIL import Image

    from captioner.data.images import open_image
    from captioner.heatmaps import comparison_figure
    from captioner.predictors import load

    picture_format = Image.registered_extensions().get(output.suffix.lower())
    if picture_format is None:
        raise ValueError(f"{output}: a figure's name ends as a picture's: .png, .jpg or .pdf, say")
    rows = []
    for variant in variants:
        checkpoints = sorted((runs / variant.name).glob("seed*/checkpoints/last.ckpt"))
        if checkpoints:
            look = load(checkpoints[0], trust=trust).look(photo, caption)
            if look.looks:
                rows.append((variant.label, look.maps))
    if not rows:
        raise ValueError(f"{runs}: no variant was trained here that attends")
    with whole_file(output) as file:
        comparison_figure(open_image(photo), rows).save(file, format=picture_format)
