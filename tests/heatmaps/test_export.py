"""The four files of a photo, and where they go."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from captioner.heatmaps import export, output_stems, read_maps
from captioner.types import AttentionMaps

WORDS = ("a", "naïve", "猫")


def make_maps(words: tuple[str, ...] = WORDS) -> AttentionMaps:
    alpha = np.random.default_rng(0).dirichlet(np.ones(12), len(words)).reshape(-1, 3, 4).astype(np.float32)
    return AttentionMaps(words, alpha, (64, 48), (8.5, 0.0, 56.5, 48.0))


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
        assert set(arrays) == {"alpha", "words", "image_size", "grid_box"}
        assert arrays["alpha"].dtype == np.float32
        np.testing.assert_array_equal(arrays["alpha"], maps.alpha)
        assert arrays["words"].dtype.kind == "U"
        assert arrays["words"].shape == (len(words),)
        assert arrays["words"].tolist() == list(words)
        assert arrays["image_size"].tolist() == [64, 48]
        assert arrays["grid_box"].tolist() == [8.5, 0, 56.5, 48]
    read = json.loads(text.read_text(encoding="utf-8"))
    assert set(read) == {"caption", "words", "image_size", "grid_box", "grid", "alpha"}
    assert read["caption"] == " ".join(words)
    assert read["words"] == list(words)
    assert (read["image_size"], read["grid_box"], read["grid"]) == ([64, 48], [8.5, 0, 56.5, 48], [3, 4])
    np.testing.assert_allclose(np.reshape(read["alpha"], maps.alpha.shape), maps.alpha, rtol=1e-5)
    with Image.open(gif) as image:
        assert image.n_frames == max(1, len(words))


def test_maps_survive_the_round_trip(tmp_path):
    maps = make_maps()
    read = read_maps(write(tmp_path / "photo", maps)[2])
    assert (read.words, read.image_size, read.grid_box) == (maps.words, maps.image_size, maps.grid_box)
    np.testing.assert_array_equal(read.alpha, maps.alpha)


def test_a_foreign_file_is_refused_by_name(tmp_path):
    np.savez(tmp_path / "other.npz", weights=np.ones(3))
    (tmp_path / "text.npz").write_text("not an archive")
    (tmp_path / "empty.npz").touch()
    (tmp_path / "cut.npz").write_bytes((tmp_path / "other.npz").read_bytes()[:100])
    np.save(tmp_path / "plain.npy", np.ones(3))
    for name in ("other.npz", "text.npz", "empty.npz", "cut.npz", "plain.npy"):
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


STEMS = [
    (["a/x.jpg", "a/y.jpg", "b/z.jpg"], ["x", "y", "z"]),
    (["a/x.jpg", "b/x.jpg", "b/y.jpg"], ["a/x", "b/x", "y"]),
    (["p/1/img/x.jpg", "p/2/img/x.jpg"], ["1/img/x", "2/img/x"]),
    (["x.jpg", "a/x.jpg"], ["x", "a/x"]),
    (["a/x.jpg", "a/x.png"], ["x.jpg", "x.png"]),
    (["a/x.jpg", "a/x.png", "b/x.png"], ["a/x.jpg", "a/x.png", "b/x"]),
    (["a/x.jpg", "a/./x.jpg", "b/../a/x.jpg"], ["x", "x", "x"]),
    (["a.b.jpg", "a.c.jpg", ".hidden", "no suffix"], ["a.b", "a.c", ".hidden", "no suffix"]),
    (["../x.jpg", "/elsewhere/y.jpg", "../../z.jpg"], ["x", "y", "z"]),
]


@pytest.mark.parametrize(("paths", "expected"), STEMS)
def test_photos_of_one_stem_keep_their_folders_or_suffix(tmp_path, monkeypatch, paths, expected):
    monkeypatch.chdir(tmp_path)
    assert output_stems(paths, Path("out")) == [Path("out") / name for name in expected]


@pytest.mark.parametrize(
    "paths",
    [
        ["a/X.jpg", "a/x.jpg", "a/x.JPG", "b/x.jpg", "A/x.jpg"],
        ["x.jpg", "x.png", "x.jpg.png", "x.jpg-2.png", "x.jpg.png.gif"],
        ["caf\u00e9.jpg", "cafe\u0301.jpg", "CAF\u00c9.png", "stra\u00dfe.jpg", "STRASSE.jpg"],
        ["../x.jpg", "/x.jpg", "/tmp/x.jpg", "../../x.jpg", "~/x.jpg", "./x.jpg"],
        ["out/x.png", "out/x.jpg", "out/x.png.png", "x.png"],
        ["out/y.gif", "out/Z.PNG", "out/z.png.png"],
    ],
)
def test_outputs_never_meet_one_another_nor_a_photo_nor_leave_their_folder(tmp_path, monkeypatch, paths):
    folder = tmp_path / "deep" / "er"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    output = folder / "out"
    stems = output_stems(paths, output)
    files = [f"{stem}{suffix}".casefold() for stem in stems for suffix in (".png", ".gif", ".npz", ".json")]
    assert len(set(files)) == len(files)
    photos = {str((folder / path).resolve()).casefold() for path in paths}
    assert photos.isdisjoint(files)
    for stem in stems:
        assert stem.resolve().is_relative_to(output)
        assert ".." not in stem.parts


def test_a_path_without_a_name_is_refused():
    with pytest.raises(ValueError, match="names no file"):
        output_stems(["/"], Path("out"))
