"""The files of a photo or a sentence, and where they go."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from captioner.heatmaps import export, read_maps
from captioner.types import AttentionMaps, GridMaps, RegionMaps, WordMaps

WORDS = ("a", "naïve", "猫")


def make_maps(words: tuple[str, ...] = WORDS) -> GridMaps:
    alpha = np.random.default_rng(0).dirichlet(np.ones(12), len(words)).reshape(-1, 3, 4).astype(np.float32)
    return GridMaps(words, alpha, (64, 48), (8.5, 0.0, 56.5, 48.0))


def write(stem: Path, maps: AttentionMaps) -> list[Path]:
    return export(Image.new("RGB", (64, 48), "teal"), maps, stem, caption=" ".join(maps.words))


@pytest.mark.parametrize("name", ["photo", "a.b", "ein Bild.v2 (ü)", "猫", ".hidden", "x.jpg"])
def test_four_files_are_named_after_the_stem(tmp_path, name):
    stem = tmp_path / "new folder" / "deep" / name
    files = write(stem, make_maps())
    assert [file.name for file in files] == [f"{name}.png", f"{name}.gif", f"{name}.npz", f"{name}.json"]
    assert sorted(stem.parent.iterdir()) == sorted(files)


@pytest.mark.parametrize("words", [WORDS, ("one",), ()])
def test_arrays_and_json_hold_the_maps(tmp_path, words):
    maps = make_maps(words)
    _, gif, npz, text = write(tmp_path / "photo", maps)
    with np.load(npz, allow_pickle=False) as arrays:
        assert set(arrays) == {"kind", "alpha", "words", "image_size", "grid_box"}
        assert arrays["kind"].item() == "grid"
        assert arrays["alpha"].dtype == np.float32
        np.testing.assert_array_equal(arrays["alpha"], maps.alpha)
        assert arrays["words"].dtype.kind == "U"
        assert arrays["words"].shape == (len(words),)
        assert arrays["words"].tolist() == list(words)
        assert arrays["image_size"].tolist() == [64, 48]
        assert arrays["grid_box"].tolist() == [8.5, 0, 56.5, 48]
    read = json.loads(text.read_text(encoding="utf-8"))
    assert set(read) == {"caption", "kind", "words", "image_size", "grid_box", "grid", "alpha"}
    assert read["caption"] == " ".join(words)
    assert read["words"] == list(words)
    assert (read["image_size"], read["grid_box"], read["grid"]) == ([64, 48], [8.5, 0, 56.5, 48], [3, 4])
    np.testing.assert_allclose(np.reshape(read["alpha"], maps.alpha.shape), maps.alpha, rtol=1e-5)
    with Image.open(gif) as image:
        assert image.n_frames == max(1, len(words))


def kinds(num_words: int = 3, num_heads: int | None = None, sentinel: bool = False) -> list[AttentionMaps]:
    """Maps of every kind."""
    rng = np.random.default_rng(0)
    words = WORDS[:num_words]
    size, box = (64, 48), (8.5, 0.0, 56.5, 48.0)
    boxes = np.array([(0, 0, 20, 20), (30.25, 10.5, 64, 48)], dtype=np.float32)

    def weights(*places: int) -> tuple[np.ndarray, np.ndarray | None]:
        heads = rng.random((num_words, num_heads or 1, *places), dtype=np.float32)
        return heads.mean(axis=1), heads if num_heads else None

    rest = rng.random(num_words, dtype=np.float32) if sentinel else None
    (grid, grid_heads), (regions, region_heads), (source, source_heads) = weights(3, 4), weights(2), weights(5)
    return [
        GridMaps(words, grid, size, box, heads=grid_heads, sentinel=rest),
        RegionMaps(words, regions, size, boxes, heads=region_heads, sentinel=rest),
        WordMaps(words, source, ("ein", "кот", '"', "", "."), heads=source_heads, sentinel=rest),
    ]


def export_any(maps: AttentionMaps, stem: Path) -> list[Path]:
    photo = None if isinstance(maps, WordMaps) else Image.new("RGB", (64, 48), "teal")
    return export(photo, maps, stem, caption=" ".join(maps.words))


def assert_same(read: AttentionMaps, maps: AttentionMaps) -> None:
    assert type(read) is type(maps)
    for field in fields(maps):
        np.testing.assert_array_equal(getattr(read, field.name), getattr(maps, field.name))
        assert type(getattr(read, field.name)) is type(getattr(maps, field.name))


@pytest.mark.parametrize(
    ("num_words", "num_heads", "sentinel"),
    [(0, 2, True), (0, None, False), (1, None, True), (3, 1, False), (3, 2, True)],
)
def test_maps_of_every_kind_survive_the_round_trip(tmp_path, num_words, num_heads, sentinel):
    for maps in kinds(num_words, num_heads, sentinel):
        export_any(maps, tmp_path / "photo")
        assert_same(read_maps(tmp_path / "photo.npz"), maps)


def test_the_json_of_every_kind_holds_all_of_it(tmp_path):
    for maps in kinds(num_heads=2, sentinel=True):
        maps = replace(maps, head_names=("layer 1, head 1", "layer 2, head 1"))
        if isinstance(maps, RegionMaps):
            maps = replace(maps, scores=np.linspace(0, 1, len(maps.boxes), dtype=np.float32))
        *_, path = export_any(maps, tmp_path / "photo")
        assert_same(read_maps(path.with_suffix(".npz")), maps)
        read = json.loads(path.read_text(encoding="utf-8"))
        assert read.pop("caption") == " ".join(WORDS)
        assert read.pop("kind") in ("grid", "regions", "words")
        read.pop("grid", None)
        assert set(read) == {field.name for field in fields(maps)}
        for name in ("alpha", "heads", "sentinel"):
            np.testing.assert_allclose(read.pop(name), getattr(maps, name), rtol=1e-5)
        for name, value in read.items():
            own = np.array(getattr(maps, name))
            np.testing.assert_array_equal(np.array(value, dtype=own.dtype), own, err_msg=name)


def test_the_json_has_a_line_for_each_row_of_weights(tmp_path):
    maps = WordMaps(("a", "b"), np.array([[0.5, 0.25], [0.125, 1]], dtype=np.float32), ("x", "y"))
    *_, path = export_any(maps, tmp_path / "photo")
    assert path.read_text(encoding="utf-8").splitlines()[-5:] == [
        '  "alpha": [',
        "    [0.5, 0.25],",
        "    [0.125, 1.0]",
        "  ]",
        "}",
    ]


def test_heads_are_a_picture_more_and_sentences_have_no_film(tmp_path):
    suffixes = [
        [path.name.removeprefix("x.y") for path in export_any(maps, tmp_path / "x.y")]
        for maps in kinds(num_heads=2) + kinds()
    ]
    photos = [".png", ".gif", ".npz", ".json"]
    with_heads = [".png", ".heads.png", *photos[1:]]
    sentence, sentence_with_heads = [".png", ".npz", ".json"], [".png", ".heads.png", ".npz", ".json"]
    assert suffixes == [with_heads, with_heads, sentence_with_heads, photos, photos, sentence]
    with Image.open(tmp_path / "x.y.heads.png") as picture:
        assert picture.width > 100


def test_a_file_from_before_there_were_kinds_is_a_grid(tmp_path):
    maps = make_maps()
    with (tmp_path / "old.npz").open("wb") as file:
        np.savez_compressed(
            file,
            alpha=maps.alpha,
            words=np.array(maps.words),
            image_size=np.array(maps.image_size),
            grid_box=np.array(maps.grid_box),
        )
    assert_same(read_maps(tmp_path / "old.npz"), maps)


def test_a_foreign_file_is_refused_by_name(tmp_path):
    np.savez(tmp_path / "other.npz", weights=np.ones(3))
    (tmp_path / "text.npz").write_text("not an archive")
    (tmp_path / "empty.npz").touch()
    (tmp_path / "cut.npz").write_bytes((tmp_path / "other.npz").read_bytes()[:100])
    np.save(tmp_path / "plain.npy", np.ones(3))
    np.savez(tmp_path / "newer.npz", kind="voxels", words=["a"], alpha=np.ones((1, 2)))
    for name in ("newer.npz", "other.npz", "text.npz", "empty.npz", "cut.npz", "plain.npy"):
        with pytest.raises(ValueError, match=name):
            read_maps(tmp_path / name)


def test_the_same_maps_give_the_same_bytes_and_replace_the_old(tmp_path):
    first = [file.read_bytes() for file in write(tmp_path / "photo", make_maps())]
    write(tmp_path / "photo", make_maps(("other",)))
    again = [file.read_bytes() for file in write(tmp_path / "photo", make_maps())]
    assert first == again


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    files = write(tmp_path / "photo", make_maps())
    before = {file: file.read_bytes() for file in files}

    def full_disk(file, **arrays):
        file.write(b"half a fi")
        raise OSError("No space left on device")

    monkeypatch.setattr(np, "savez_compressed", full_disk)
    with pytest.raises(OSError, match="No space"):
        write(tmp_path / "photo", make_maps())
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_a_word_that_is_no_unicode_does_not_stop_the_json(tmp_path):
    files = write(tmp_path / "photo", make_maps(("caf\udce9",)))
    assert json.loads(files[3].read_text(encoding="utf-8"))["words"] == ["caf?"]
