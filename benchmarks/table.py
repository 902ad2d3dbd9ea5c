"""Rows of results, and the table that they make."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.measure import Timing

HEADINGS = ("", "per second", "ratio", "of rounds", "first time", "GFLOP/s", "arithmetic", "traffic")
ON_A_GPU = "peak memory"  # a column more
NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Row:
    """One side of one case.

    Attributes:
        case: the case's title.
        side: who did it, and how.
        unit: of the value: "captions/s", "images/s", "MB" or "s".
        value: the median of the rounds; None where it was not measured.
        samples: of each round.
        ratio: how many times better than the case's first side: the median of the rounds' ratios; 1 for that side.
        ratio_low: the least of them.
        ratio_high: the greatest.
        first_seconds: the first time, compilation included; None where that says nothing.
        flops_per_second: of products.
        arithmetic: the share of the time that products take at the machine's attainable rate.
        traffic: the share of the time that reading and writing every operation's tensors takes at its attainable
            rate; above 1 where caches save much of it. None where operations are fused.
        peak_bytes: what a round takes of a GPU's memory at its most; None on a CPU.
    """

    case: str
    side: str
    unit: str
    value: float | None
    samples: list[float]
    ratio: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None
    first_seconds: float | None = None
    flops_per_second: float | None = None
    arithmetic: float | None = None
    traffic: float | None = None
    peak_bytes: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


def rows_of(case: str, unit: str, timings: Sequence[Timing], rates: Mapping[str, float]) -> list[Row]:
    """Rows of a case whose sides were timed.

    Args:
        case: its title.
        unit: of what a round does, per second.
        timings: the first is what the others are compared with.
        rates: see `machine.attainable`.
    """
    rows = []
    for timing in timings:
        ratios = [rate / base for rate, base in zip(timing.rates, timings[0].rates, strict=False)]  # of its rounds
        rows.append(
            Row(
                case,
                timing.name,
                unit,
                statistics.median(timing.rates),
                timing.rates,
                statistics.median(ratios),
                min(ratios),
                max(ratios),
                timing.first_seconds,
                _median_rate(timing.flops, timing.seconds),
                _share(_median_rate(timing.flops, timing.seconds), rates[timing.dtype]),
                _share(_median_rate(timing.traffic, timing.seconds), rates["copy"]),
                timing.peak_bytes,
            )
        )
    return rows


def rows_of_samples(case: str, unit: str, samples: Mapping[str, Sequence[float]], compared: bool) -> list[Row]:
    """Rows of a case whose value is measured itself (memory, seconds), less being better.

    Args:
        case: its title.
        unit: of the samples.
        samples: of each side, round by round.
        compared: whether the first side is what the others are compared with.
    """
    first = next(iter(samples.values()))
    rows = []
    for side, values in samples.items():
        ratios = [base / value for base, value in zip(first, values, strict=True)]
        spread = (statistics.median(ratios), min(ratios), max(ratios)) if compared else (None, None, None)
        rows.append(Row(case, side, unit, statistics.median(values), list(values), *spread))
    return rows


def _median_rate(amounts: Sequence[float], seconds: Sequence[float]) -> float | None:
    if not amounts:
        return None
    return statistics.median(amount / time for amount, time in zip(amounts, seconds, strict=True))


def _share(rate: float | None, attainable: float) -> float | None:
    return None if rate is None else rate / attainable


def headline(machine: Mapping[str, Any], rates: Mapping[str, float]) -> str:
    """One paragraph that names the machine."""
    what = f"{machine['gpu']}, " if machine["gpu"] else ""
    without = not machine.get("bf16_units", True)
    units = " No bfloat16 units: bf16 is emulated, `precision: auto` is fp32." if without else ""
    bf16 = rates["bfloat16"] / 1e9
    load = "" if machine["load"] is None else f" Load at the start: {machine['load']}."
    return (
        f"{what}{machine['cpu']}, {machine['cores']} cores ({', '.join(machine['flags'])}), {machine['threads']} "
        f"threads; torch {machine['torch']}, Python {machine['python']}; {machine['date']}. Attainable: "
        f"{rates['float32'] / 1e9:,.0f} GFLOP/s in fp32, {bf16:,.{1 if bf16 < 10 else 0}f} in bf16, copies of "
        f"{rates['copy'] / 1e9:,.1f} GB/s.{load}{units}"
    )


def table(rows: Sequence[Mapping[str, Any]], markdown: bool = False) -> str:
    """The table of all rows, as their JSON has them: plain, or in Markdown."""
    peaks = any(row.get("peak_bytes") is not None for row in rows)
    headings = (*HEADINGS, ON_A_GPU) if peaks else HEADINGS
    cells: list[tuple[str, ...]] = []
    case = None
    for row in rows:
        if row["case"] != case:
            case = row["case"]
            title = f"**{case}**" if markdown else case
            cells.append((title, *[""] * (len(headings) - 1)))
        cells.append(_cells(row)[: len(headings)])
    if markdown:
        lines = [headings, ("---", *["---:"] * (len(headings) - 1)), *cells]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)
    widths = [max(len(line[column]) for line in [headings, *cells]) for column in range(len(headings))]
    widths[0] = max(len(line[0]) + 2 for line in cells if any(line[1:]))
    text = []
    for line in [headings, *cells]:
        indent = "  " if any(line[1:]) else ""
        columns = [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
        text.append("  ".join([(indent + line[0]).ljust(widths[0]), *columns]).rstrip())
    return "\n".join(text)


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    unit = row["unit"].partition("/")[0]
    return (
        row["side"],
        NOT_MEASURED if row["value"] is None else f"{_number(row['value'])} {unit}",
        "" if row["ratio"] is None else f"{row['ratio']:.2f}x",
        "" if row["ratio"] is None else f"{row['ratio_low']:.2f}-{row['ratio_high']:.2f}",
        "" if row["first_seconds"] is None else f"{row['first_seconds']:.1f} s",
        "" if row["flops_per_second"] is None else f"{row['flops_per_second'] / 1e9:,.0f}",
        "" if row["arithmetic"] is None else f"{row['arithmetic']:.0%}",
        "" if row["traffic"] is None else f"{row['traffic']:.0%}",
        "" if row.get("peak_bytes") is None else f"{row['peak_bytes'] / 1e6:,.0f} MB",
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
