"""The table."""

from __future__ import annotations

from captioner.comparison import Result, find_variants, table


def result(seed: int, cider: float, meteor: float | None = 20.0, config: str = "") -> Result:
    return Result(seed, config, cider / 2, meteor, cider, 4.0, 1_500_000, 2.0, 3.0, 50.0)


def test_the_table_ranks_what_has_three_seeds(config):
    first, alone, blind = find_variants(config)
    rows = [
        (first, [result(seed, 30.0 + seed) for seed in range(3)]),
        (alone, [result(0, 99.0, meteor=None)]),
        (blind, [result(seed, 40.0) for seed in range(3)]),
    ]
    lines = table(rows).splitlines()
    assert lines[2].startswith("| first | 3 | 15.50 ± 0.50 | 20.00 ± 0.00 | 31.00 ± 1.00 | 2 | 4.00 | 1.50 M |")
    assert lines[3].startswith("| alone | 1 | 49.50 | – | 99.00 |  | 4.00 |")
    assert lines[4].startswith("| **group** |")
    assert lines[5].startswith("| blind | 3 | 20.00 ± 0.00 | 20.00 ± 0.00 | 40.00 ± 0.00 | 1 | 4.00 |")
    assert len({line.count("|") for line in lines}) == 1
