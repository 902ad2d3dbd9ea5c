"""`captioner heatmap`: four files per photo, which say the same as the model."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from captioner.cli.main import main
from captioner.data import open_image
from captioner.heatmaps import output_stems
from captioner.predictors import load


@pytest.fixture
def run(model_file, capsys):
    def run(*arguments):
        status = main(["heatmap", "--model", str(model_file), "--device", "cpu", *map(str, arguments)])
        return status, capsys.readouterr().err.splitlines()

    return run


def assert_files_say(stem, photo, caption):
    """The four files of a photo hold this caption and its maps."""
    with np.load(f"{stem}.npz", allow_pickle=False) as arrays:
        assert sorted(arrays) == ["alpha", "grid_box", "image_size", "kind", "words"]
        assert arrays["words"].dtype.kind == "U"
        assert arrays["words"].tolist() == list(caption.words)
        assert arrays["alpha"].shape == (len(caption.words), 4, 4)
        np.testing.assert_allclose(arrays["alpha"], caption.maps.alpha, atol=1e-5)
        np.testing.assert_allclose(arrays["alpha"].sum((1, 2)), 1, atol=1e-5)
        assert tuple(arrays["image_size"]) == open_image(photo).size
        assert tuple(arrays["grid_box"]) == caption.maps.grid_box
        alpha = arrays["alpha"]
    page = json.loads(stem.with_name(stem.name + ".json").read_text("utf-8"))
    assert (page["caption"], page["words"]) == (caption.text, list(caption.words))
    assert (page["grid"], page["image_size"]) == ([4, 4], list(open_image(photo).size))
    np.testing.assert_allclose(page["alpha"], alpha, rtol=1e-4, atol=1e-6)
    with Image.open(f"{stem}.gif") as film, Image.open(f"{stem}.png") as figure:
        assert film.n_frames == len(caption.words)
        assert figure.width > 100


def test_four_files_a_photo(run, album, model_file, tmp_path):
    photos = [album / "turned.JPG", album / "de eper" / "Füße 猫 and spaces.jpeg", album / "tiny.bmp"]
    status, err = run(*photos, album / "half.png", "--output", tmp_path / "maps")
    assert status == 1
    assert len(err) == 1
    assert err[0].startswith(f"captioner: {album / 'half.png'}: damaged")
    assert len(list((tmp_path / "maps").rglob("*.*"))) == 12
    captions = load(model_file, "cpu").caption(photos)
    for photo, caption in zip(photos, captions, strict=True):
        assert_files_say(tmp_path / "maps" / photo.stem, photo, caption)
    assert open_image(album / "turned.JPG").size == (40, 60)  # upright


def test_photos_of_one_stem_keep_their_folders(run, album, tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        shutil.copy(album / "grey.png", tmp_path / folder / "x.png")
    assert run(tmp_path / "a", tmp_path / "b", "--output", tmp_path / "maps") == (0, [])
    made = sorted(str(path.relative_to(tmp_path / "maps")) for path in (tmp_path / "maps").rglob("*.npz"))
    assert made == ["a/x.npz", "b/x.npz"]


def test_a_caption_of_ones_own(run, album, model_file, tmp_path):
    status, _ = run(album / "grey.png", "--caption", "A zebra on the grass", "--output", tmp_path)
    assert status == 0
    look = load(model_file, "cpu").look(album / "grey.png", "A zebra on the grass")
    assert look.words == ("a", "zebra", "on", "the", "grass")
    assert_files_say(tmp_path / "grey", album / "grey.png", look)


def test_a_broken_photo_with_a_caption_of_ones_own(run, album, tmp_path):
    status, err = run(album / "half.png", album / "grey.png", "--caption", "a dog", "--output", tmp_path)
    assert (status, len(err)) == (1, 1)
    assert len(list(tmp_path.iterdir())) == 4


def test_a_caption_without_words(run, album, tmp_path):
    status, err = run(album / "grey.png", "--caption", "...", "--output", tmp_path / "maps")
    assert (status, err) == (2, ["captioner: error: the caption '...' has no words"])
    assert not (tmp_path / "maps").exists()


def test_blocky(run, album, tmp_path):
    for options in ([], ["--blocky"]):
        run(album / "grey.png", "--output", tmp_path / f"maps{len(options)}", *options)
    smooth, blocky = (np.asarray(Image.open(tmp_path / f"maps{i}" / "grey.png")) for i in (0, 1))
    assert smooth.shape == blocky.shape
    assert (smooth != blocky).any()
    assert (tmp_path / "maps0" / "grey.npz").read_bytes() == (tmp_path / "maps1" / "grey.npz").read_bytes()


def test_a_photo_that_goes_away_meanwhile(run, album, tmp_path, monkeypatch):
    """It was captioned, but cannot be drawn: the others are."""
    shutil.copy(album / "grey.png", tmp_path / "x.png")

    def stems_of_what_was_there(paths, output):
        (tmp_path / "x.png").unlink(missing_ok=True)
        return output_stems(paths, output)

    monkeypatch.setattr("captioner.heatmaps.output_stems", stems_of_what_was_there)
    paths = [tmp_path / "x.png", album / "web.webp"]
    status, err = run(*paths, "--caption", "a dog", "--output", tmp_path / "maps")
    assert (status, err) == (1, [f"captioner: {tmp_path / 'x.png'}: no such file or folder"])
    assert sorted(path.name for path in (tmp_path / "maps").iterdir()) == [
        f"web.{s}" for s in ("gif", "json", "npz", "png")
    ]


def test_an_output_that_cannot_be_written(run, album, tmp_path):
    (tmp_path / "file").touch()
    status, err = run(album / "grey.png", "--output", tmp_path / "file")
    assert (status, len(err)) == (2, 1)
    assert err[0].startswith("captioner: error: ")


def test_an_output_folder_that_vanishes(run, album, tmp_path, monkeypatch):
    """The files that come later do not stand for those that are gone."""
    folder, drawn = tmp_path / "maps", []

    def draw(*arguments):
        drawn.append(1)
        shutil.rmtree(folder)

    monkeypatch.setattr("captioner.cli.heatmap._draw", draw)
    status, err = run(album / "grey.png", album / "tiny.bmp", "--output", folder)
    assert (status, drawn) == (2, [1])
    assert err[-1] == (
        f"captioner: error: {folder}: the folder was removed while a command was writing to it: what it held is lost"
    )


def test_a_caption_that_is_no_text(run, album, tmp_path):
    status, err = run(album / "grey.png", "--output", tmp_path, "--caption", "a \udcff")
    reason = "is no text, but bytes or half a character: write it in UTF-8"
    assert (status, err) == (2, [f"captioner: error: --caption 'a \\udcff' {reason}"])


def test_a_url_is_drawn(run, album, tmp_path):
    assert run(f"file://{album / 'grey.png'}?x", "--output", tmp_path)[0] == 1  # a path on this disk has no query
    assert run(f"file://{album / 'grey.png'}", "--output", tmp_path)[0] == 0
    assert (tmp_path / "grey.npz").exists()
