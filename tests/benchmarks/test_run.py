"""The runner: what it measures, and that a small run goes from end to end."""

from __future__ import annotations

import json
import statistics

import pytest
import torch

from benchmarks.captioning import require_equal
from benchmarks.measure import Side, Timing, count, count_work, interleave
from benchmarks.run import CASES, Bench, decoder_step, main
from benchmarks.table import headline, rows_of, rows_of_samples, table
from benchmarks.workload import Sizes, sizes_for, training_batches

CPU = torch.device("cpu")
RATES = {"float32": 100.0, "bfloat16": 200.0, "copy": 50.0}


def ignore(text: str) -> None:
    """Told what is going on."""


def test_a_run_ends_in_a_table_and_a_file(tmp_path, capsys):
    output = tmp_path / "results.json"
    options = ["--quick", "--no-compile", "--rounds", "1", "--threads", "1", "--output", str(output)]
    assert main([*options, "--cases", "decoder_step", "finetune_step", "captioning"]) == 0
    printed = capsys.readouterr().out
    results = json.loads(output.read_text())
    rows = {(row["case"], row["side"]): row for row in results["rows"]}
    step = rows["Decoder training step", "ours, eager fp32"]
    assert len(step["samples"]) == 1
    assert step["ratio"] > 0
    assert step["arithmetic"] > 0
    assert rows["Decoder training step", "textbook, eager fp32"]["ratio"] == 1
    assert rows["Training step, fine-tuned timm/test_efficientnet", "ours, eager fp32"]["ratio"] > 0
    assert "Captioning 4 photos, beam 5" in printed
    assert rows["Captioning photos in memory, beam 3", "ours, 4 at a time"]["value"] > 0
    assert results["machine"]["threads"] == 1

    assert main(["--markdown", str(output)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "| **Decoder training step** |" in "\n".join(lines)
    assert len({line.count("|") for line in lines if line.startswith("|")}) == 1


def test_an_unknown_case_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["--cases", "everything"])
    message = capsys.readouterr().err
    assert all(name in message for name in CASES)


def test_sides_take_turns():
    order = []
    sides = [Side(name, lambda number, name=name: order.append((name, number)), lambda number: 1) for name in "ab"]
    timings = [timing for _, timing in interleave(sides, 2, CPU, ignore)]
    assert order == [("a", 0), ("b", 0), ("a", 0), ("b", 0), ("a", 1), ("b", 1)]  # the first of each warms up
    assert [len(timing.seconds) for timing in timings] == [2, 2]


def test_a_slow_side_takes_part_in_some_rounds():
    sides = [Side("a", ignore, lambda number: 1), Side("b", ignore, lambda number: 1, most_rounds=1)]
    timings = [timing for _, timing in interleave(sides, 3, CPU, ignore)]
    assert [len(timing.seconds) for timing in timings] == [3, 1]
    assert [len(row.samples) for row in rows_of("case", "x/s", timings, RATES)] == [3, 1]


@pytest.mark.parametrize("units", [True, False])
def test_bf16_is_measured_in_full_where_the_device_has_it(monkeypatch, tmp_path, units):
    monkeypatch.setattr("benchmarks.run.has_bf16", lambda device: units)
    found = []
    monkeypatch.setattr("benchmarks.run.interleave", lambda sides, *rest: found.extend(sides) or [])
    decoder_step(Bench(sizes_for(CPU, True), CPU, 2, 1, False, False, RATES, tmp_path))
    bf16 = {side.name: side.most_rounds for side in found if side.dtype == "bfloat16"}
    assert "ours, eager fp32" in [side.name for side in found]
    assert bf16 == (
        {"ours, eager bf16": None, "textbook, eager bf16": None} if units else {"ours, eager bf16, emulated": 1}
    )


def test_a_machine_without_bf16_units_is_one_that_says_so():
    machine = {
        "cpu": "x",
        "gpu": None,
        "cores": 2,
        "flags": [],
        "threads": 2,
        "torch": "2",
        "python": "3",
        "date": "today",
    }
    machine |= {"load": None, "bf16_units": False}
    assert headline(machine, dict.fromkeys(RATES, 1000000000.0)).endswith(
        "bf16 is emulated, `precision: auto` is fp32."
    )
    assert "emulated" not in headline({**machine, "bf16_units": True}, dict.fromkeys(RATES, 1000000000.0))


def fail(number: int) -> None:
    raise RuntimeError("no compiler")


def test_an_optional_side_that_fails_is_left_out_and_told():
    """At once, or in a round."""
    told: list[str] = []
    calls: list[int] = []

    def fail_later(number: int) -> None:
        calls.append(number)
        if len(calls) > 1:
            fail(number)

    works = Side("works", lambda number: None, lambda number: 1)
    for work in (fail, fail_later):
        measured = interleave([works, Side("fails", work, lambda number: 1, optional=True)], 1, CPU, told.append)
        assert [side.name for side, _ in measured] == ["works"]
    assert sum("no compiler" in line for line in told) == 2
    with pytest.raises(RuntimeError, match="no compiler"):
        interleave([Side("fails", fail, lambda number: 1)], 1, CPU, ignore)


def test_after_the_deadline_what_is_optional_is_left_out_and_a_round_is_enough():
    told: list[str] = []
    must, may = (Side(name, lambda number: None, lambda number: 1, optional=name == "b", counted=fail) for name in "ab")
    measured = interleave([must, may], 3, CPU, told.append, deadline=0.0)
    assert [(side.name, len(timing.seconds)) for side, timing in measured] == [("a", 1)]
    assert any("b: left out" in line for line in told)
    count(measured, deadline=0.0)
    assert not measured[0][1].flops


def test_a_side_that_is_not_what_its_name_says_is_left_out():
    def check() -> None:
        raise RuntimeError("not recorded")

    told: list[str] = []
    works = Side("works", lambda number: None, lambda number: 1)
    other = Side("graphs", works.run, works.units, check=check, optional=True)
    measured = interleave([works, other], 1, CPU, told.append)
    assert [side.name for side, _ in measured] == ["works"]
    assert any("graphs: cannot run (RuntimeError: not recorded)" in line for line in told)


def test_arithmetic_and_traffic_are_counted():
    left, right = torch.randn(3, 5), torch.randn(5, 7)
    flops, traffic = count_work(lambda number: left @ right, 0)
    assert flops == 2 * 3 * 5 * 7
    assert traffic == 4 * (3 * 5 + 5 * 7 + 3 * 7)
    _, traffic = count_work(lambda number: left[:1].expand(10, 5).view(2, 5, 5) + 1, 0)
    assert traffic == 4 * (5 + 50)  # views are free, and what is expanded is read once


def test_ratios_are_those_of_the_rounds():
    book = Timing("book", seconds=[1.0, 2.0, 4.0], units=[10, 10, 10], flops=[50.0] * 3, traffic=[25.0] * 3)
    ours = Timing("ours", seconds=[0.5, 0.5, 0.5], units=[10, 10, 10])
    first, second = rows_of("case", "captions/s", [book, ours], RATES)
    assert (second.ratio, second.ratio_low, second.ratio_high) == (4, 2, 8)
    assert first.value == statistics.median([10, 5, 2.5])
    assert first.arithmetic == 0.25
    assert first.traffic == 0.25
    assert second.arithmetic is None
    less, more = rows_of_samples("memory", "MB", {"book": [100.0], "ours": [25.0]}, compared=True)
    assert (less.ratio, more.ratio) == (1, 4)
    assert "4.00x" in table([row.as_dict() for row in (less, more)])


def test_captions_are_drawn_like_flickr8k():
    batches = list(training_batches(Sizes(num_images=8)))
    lengths = torch.cat([batch.lengths for batch in batches])
    assert lengths.double().mean() == pytest.approx(11.8, abs=0.4)
    for batch in batches:
        longest = batch.lengths[:, 0]
        assert torch.equal(longest, batch.lengths.amax(dim=1))
        assert torch.equal(longest, longest.sort(descending=True).values)
    again = next(training_batches(Sizes(num_images=8)))
    assert torch.equal(again.tokens, batches[0].tokens)


def test_captions_that_differ_stop_the_run():
    require_equal(["a", "b"], ["a", "b"])
    with pytest.raises(RuntimeError, match="1 of 2 captions differ"):
        require_equal(["a", "b"], ["a", "c"])
    with pytest.raises(RuntimeError, match="only 1 of 2 captions are distinct"):
        require_equal(["a", "a"], ["a", "a"])
