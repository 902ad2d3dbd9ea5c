"""Output files are named after their photos, and never meet."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from captioner.heatmaps import output_stems

SUFFIXES = (".png", ".heads.png", ".gif", ".npz", ".json")


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
        ["x.jpg", "x.heads.jpg", "out/y.heads.png", "y.jpg"],
    ],
)
def test_outputs_never_meet_one_another_nor_a_photo_nor_leave_their_folder(tmp_path, monkeypatch, paths):
    folder = tmp_path / "deep" / "er"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    output = folder / "out"
    stems = output_stems(paths, output)
    files = [f"{stem}{suffix}".casefold() for stem in stems for suffix in SUFFIXES]
    assert len(set(files)) == len(files)
    photos = {str((folder / path).resolve()).casefold() for path in paths}
    assert photos.isdisjoint(files)
    for stem in stems:
        assert stem.resolve().is_relative_to(output)
        assert ".." not in stem.parts


def test_a_path_without_a_name_is_refused():
    with pytest.raises(ValueError, match="names no file"):
        output_stems(["/"], Path("out"))


def test_urls_have_stems(tmp_path):
    """A long query is not part of a file's name, but tells two photos apart."""
    urls = [
        "https://host/a/x.jpg",
        "s3://bucket/b/y.jpg",
        "https://host/z.jpg?signature=" + "s" * 300,
        "https://host/z.jpg#2",
    ]
    stems = output_stems([*urls, urls[2]], tmp_path)
    assert stems[:2] == [tmp_path / "x", tmp_path / "y"]
    assert all(re.fullmatch("z-[0-9a-f]{8}", stem.name) for stem in stems[2:])
    assert stems[2] == stems[4] != stems[3]
    assert output_stems(["https://host/a/x.jpg", "https://host/b/x.jpg"], tmp_path) == [
        tmp_path / "a/x",
        tmp_path / "b/x",
    ]
