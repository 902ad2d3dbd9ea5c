"""Inputs are divided into chunks."""

from __future__ import annotations

from pathlib import Path

import pytest
from bulk_cases import write_table

from captioner.bulk import ImageList, TableRows, TarShard, find_work


@pytest.mark.parametrize("chunk_size", [1, 3, 5, 100])
def test_every_image_is_in_one_chunk(album, tmp_path, chunk_size, make_plan):
    paths = [f"{number}.jpg" for number in range(11)]
    table = write_table(tmp_path / "list.parquet", size=list(range(11)), path=paths)
    shard = str(tmp_path / "a.tar")
    Path(shard).touch()
    work, problems = find_work([str(album), table, shard, shard], chunk_size)
    assert problems == []
    plan = make_plan(work)
    assert list(plan.work()) == work
    found = [name for chunk in work if isinstance(chunk, ImageList | TableRows) for name, _ in chunk.open("/r")]
    assert found == [*sorted(str(path) for path in album.rglob("*.*") if path.suffix != ".txt"), *paths]
    assert work[-1] == TarShard(shard)
    assert sum(chunk.size for chunk in plan.chunks) == len(found) + 1
    assert max(chunk.size for chunk in plan.chunks) <= chunk_size


def test_folders_and_patterns_of_tables_and_shards(tmp_path):
    for name in ("b", "a"):
        write_table(tmp_path / f"{name}.parquet", image=["x.jpg"])
        (tmp_path / f"{name}.tar").touch()
    tables = [TableRows(str(tmp_path / f"{name}.parquet"), "image", 0, 1) for name in "ab"]
    shards = [TarShard(str(tmp_path / f"{name}.tar")) for name in "ab"]
    assert find_work([str(tmp_path)], 9) == (tables, [])
    assert find_work([str(tmp_path / "*.parquet"), str(tmp_path / "{a,b}.tar")], 9) == (tables + shards, [])
    work, problems = find_work([str(tmp_path / "no*.parquet"), str(tmp_path / "no*.tar")], 9)
    assert work == []
    assert [problem.reason for problem in problems] == [
        "no image matches this pattern",
        "no shard matches this pattern",
    ]


def test_tables_that_do_not_do(tmp_path):
    table = write_table(tmp_path / "t.parquet", url=["x"], image=[1])
    with pytest.raises(ValueError, match="the column image holds int64, not paths"):
        find_work([table], 9)
    with pytest.raises(ValueError, match="no column name; there are: url, image"):
        find_work([table], 9, "name")
    assert find_work([table], 9, "url")[0] == [TableRows(table, "url", 0, 1)]
    (tmp_path / "t.parquet").write_text("x")
    with pytest.raises(ValueError, match="not a parquet file"):
        find_work([table], 9)
