"""What a cache says of its rows: whatever is changed, exchanged or missing is noticed, by file, line and photo."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from cache_cases import SmallEncoder, build

from captioner.data.features.cache import FeatureCache
from captioner.data.features.identity import CacheError
from captioner.data.features.index import Row, index_line, is_finite, read_index, read_meta, row_checksum
from captioner.data.images import ImageTransform
from captioner.types import ImageError

TRANSFORM = ImageTransform(32)
ROW_BYTES = 2 * 2 * 2 * 6


@pytest.fixture
def built(folder, items, encoder):
    """A cache of ten photos."""
    build(folder, items, encoder)
    return folder


def as_of_0_1_0(folder) -> None:
    """Take from a cache what earlier versions did not write."""
    meta = json.loads((folder / "cache.json").read_text())
    (folder / "cache.json").write_text(json.dumps({name: meta[name] for name in meta if name != "checksum"}))
    lines = map(json.loads, (folder / "index.jsonl").read_text().splitlines())
    kept = ({name: line[name] for name in ("sha256", "views", "name")} for line in lines)
    (folder / "index.jsonl").write_text("".join(json.dumps(line) + "\n" for line in kept))


def opened(folder, encoder) -> FeatureCache:
    return FeatureCache.open(folder, encoder, TRANSFORM)


def test_any_changed_byte_of_a_row_is_noticed_by_photo(built, items, encoder):
    whole = (built / "features.f16").read_bytes()
    cache = opened(built, encoder)
    for place in range(0, len(whole), 41):
        changed = bytearray(whole)
        changed[place] ^= 1 << place % 8
        (built / "features.f16").write_bytes(changed)
        wrong = items[place // ROW_BYTES].path
        for item in items:
            if item.path != wrong:
                cache.load(item.path)
        with pytest.raises(
            ImageError, match=r"has other features in .*features\.f16 than were written there"
        ) as caught:
            cache.load(wrong)
        assert caught.value.name == str(wrong)


def test_any_changed_letter_of_the_index_is_noticed_by_line(built, encoder):
    whole = (built / "index.jsonl").read_bytes()
    for place in range(0, len(whole) - 1, 29):  # without the last line's end, a line is one that is being written
        changed = bytearray(whole)
        changed[place] ^= 1 << place % 7
        (built / "index.jsonl").write_bytes(changed)
        with pytest.raises(
            CacheError, match=r"index\.jsonl, line \d+: damaged .*delete the folder and build the cache"
        ):
            opened(built, encoder)


def test_any_changed_letter_of_cache_json_is_noticed(built, encoder):
    whole = (built / "cache.json").read_bytes()
    assert json.loads(whole)["augmentation"] is None
    for place in range(0, len(whole), 13):
        changed = bytearray(whole)
        changed[place] ^= 2
        (built / "cache.json").write_bytes(changed)
        if changed.split() != whole.split():  # not a space for another
            with pytest.raises(CacheError):
                opened(built, encoder)


def test_lines_have_their_order(built, items, encoder):
    lines = (built / "index.jsonl").read_bytes().splitlines(keepends=True)
    for changed in ([lines[1], lines[0], *lines[2:]], lines[1:], [*lines[:3], *lines[4:]], [lines[0], *lines]):
        (built / "index.jsonl").write_bytes(b"".join(changed))
        for use in (lambda: opened(built, encoder), lambda: build(built, items, encoder)):
            with pytest.raises(CacheError, match=r"line \d+: damaged .*its rows start at"):
                use()
    (built / "index.jsonl").write_bytes(b"".join(lines[:4]))  # as a killed process leaves it
    assert len(opened(built, encoder).rows) == 4


def test_a_cache_json_of_another_cache(built, items, tmp_path):
    other = SmallEncoder()
    with torch.no_grad():
        other.network[0].weight[0] += 1
    build(tmp_path / "other", items, other)
    shutil.copy(tmp_path / "other" / "cache.json", built / "cache.json")
    for use in (lambda: opened(built, other), lambda: build(built, items, other)):
        with pytest.raises(CacheError, match="line 1: damaged .*or cache.json is of another cache"):
            use()


@pytest.mark.parametrize("left", ["index.jsonl", "features.f16"])
def test_without_cache_json_nothing_passes_for_new(built, items, encoder, left):
    for path in built.iterdir():
        if path.name != left:
            path.unlink()
    before = (built / left).read_bytes()
    for use in (lambda: opened(built, encoder), lambda: build(built, items, encoder)):
        with pytest.raises(
            CacheError, match=r"cache\.json is missing, which says what the features beside it are from"
        ):
            use()
    assert (built / left).read_bytes() == before
    assert not (built / "cache.json").exists()


META = [
    [],
    "text",
    {},
    {"grid": [2, 2]},
    {"grid": [2, 2, 0]},
    {"grid": [2, 2, 2**40]},
    {"grid": [2, 2, "6"]},
    {"grid": [2.0, 2, 6]},
    {"encoder": None},
    {"encoder": "GridEncoder"},
    {"transform": []},
    {"weights": 3},
    {"augmentation": "yes"},
    {"format": "1"},
]


@pytest.mark.parametrize("change", META, ids=str)
def test_cache_json_with_other_things_in_it(built, items, encoder, change):
    as_of_0_1_0(built)
    meta = json.loads((built / "cache.json").read_text())
    (built / "cache.json").write_text(json.dumps({**meta, **change} if change and isinstance(change, dict) else change))
    for use in (lambda: opened(built, encoder), lambda: build(built, items, encoder)):
        with pytest.raises(CacheError, match=r"cache\.json: damaged, or not a feature cache"):
            use()


LINES = [
    "{}",
    "[]",
    "3",
    "null",
    '{"sha256": 3, "views": 1, "name": "a"}',
    '{"sha256": "a", "views": 0, "name": "a"}',
    '{"sha256": "a", "views": "1", "name": "a"}',
    '{"sha256": "a", "views": true, "name": "a"}',
    '{"sha256": "a", "views": -1, "name": "a"}',
    '{"sha256": "a", "name": "a"}',
    '{"sha256": "a", "views": 1, "name": "a", "rows": [1]}',
    '{"sha256": "a", "views": 1, "name": "a", "checksum": 1}',
    "",
    "{",
]


@pytest.mark.parametrize("line", LINES)
def test_lines_with_other_things_in_them(built, items, encoder, line):
    as_of_0_1_0(built)
    whole = (built / "index.jsonl").read_text()
    (built / "index.jsonl").write_text(f"{whole}{line}\n")
    for use in (lambda: opened(built, encoder), lambda: build(built, items, encoder)):
        with pytest.raises(CacheError, match=r"index\.jsonl, line 11: damaged") as caught:
            use()
        assert "\n" not in str(caught.value)


def test_a_cache_of_before_is_read_and_added_to(built, items, encoder, tmp_path):
    expected = opened(built, encoder).memory([item.path for item in items]).features
    shutil.copytree(built, tmp_path / "old")
    as_of_0_1_0(tmp_path / "old")
    kept = (tmp_path / "old" / "index.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "old" / "index.jsonl").write_text("".join(kept[:6]))
    said: list[str] = []
    build(tmp_path / "old", items, encoder, report=said.append)
    assert said[1].endswith("6 images of an earlier version have no checksums")
    cache = opened(tmp_path / "old", encoder)
    assert torch.equal(cache.memory([item.path for item in items]).features, expected)
    assert [len(row.checksums) for row in cache.rows.values()] == [0] * 6 + [1] * 4
    assert read_meta(tmp_path / "old") == read_meta(built)


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_features_that_are_no_numbers_are_refused_without_checksums_too(built, items, encoder, number):
    as_of_0_1_0(built)
    rows = np.memmap(built / "features.f16", dtype=np.float16, mode="r+", shape=(10, 2, 2, 6))
    rows[3, 1, 0, 2] = number
    rows.flush()
    cache = opened(built, encoder)
    cache.load(items[2].path)
    with pytest.raises(
        ImageError, match=rf"{items[3].path}: has features in .*features\.f16 that are not finite numbers"
    ):
        cache.load(items[3].path)


def test_what_is_cut_off_after_opening_is_an_error_too(built, items, encoder):
    cache = opened(built, encoder)
    (built / "features.f16").write_bytes(b"x")
    with pytest.raises(ImageError, match=r"has no features in .*features\.f16, which is damaged"):
        cache.load(items[3].path)
    (built / "features.f16").unlink()
    with pytest.raises(ImageError, match="has no features"):
        cache.load(items[3].path)
    with pytest.raises(CacheError, match=r"features\.f16: damaged: 0 bytes of 480"):
        opened(built, encoder)


def test_a_line_says_what_it_is_given(tmp_path):
    meta = {"format": 1, "encoder": {}, "weights": "w", "transform": {}, "grid": [1, 1, 1]}
    name = 'a "photo", "checksum": 3}'
    lines = [index_line("aa", Row(0, 2, (5, 6)), name, meta), index_line("bb", Row(2, 1, (7,)), "b", meta)]
    (tmp_path / "index.jsonl").write_bytes(b"".join(lines) + b'{"half')
    index = read_index(tmp_path, meta)
    assert index.rows == {"aa": Row(0, 2, (5, 6)), "bb": Row(2, 1, (7,))}
    assert (index.num_rows, index.num_bytes, index.num_unchecked) == (3, sum(map(len, lines)), 0)
    assert json.loads(lines[0])["name"] == name


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_finite_numbers(dtype):
    limits = np.finfo(dtype)
    sound = np.array([0, -0.0, limits.max, limits.min, limits.smallest_subnormal, -1], dtype=dtype)
    assert is_finite(sound)
    assert is_finite(sound[:0])
    for number in (np.nan, -np.nan, np.inf, -np.inf):
        assert not is_finite(np.append(sound, dtype(number)))


def test_checksums_are_of_bytes_in_order():
    rows = np.arange(12, dtype=np.float16).reshape(3, 4)
    assert row_checksum(rows) == row_checksum(rows.copy()) == row_checksum(rows.T.copy().T)
    assert len({row_checksum(rows), row_checksum(rows[::-1]), row_checksum(rows + 1)}) == 3
