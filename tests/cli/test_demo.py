"""`captioner demo`: free photos, captions and maps, with the model that ships."""

from __future__ import annotations

import sys

import pytest

from captioner.cli import demo
from captioner.cli.main import main


def test_photos_captions_and_maps_are_there(tmp_path, monkeypatch, capsys):
    pytest.importorskip("skimage")
    monkeypatch.setattr(demo, "PHOTOS", ("chelsea",))
    assert main(["demo", "--output", str(tmp_path / "demo")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    for name, line in zip(demo.PHOTOS, lines, strict=False):
        photo, _, caption = line.partition(": ")
        assert photo == str(tmp_path / "demo" / "photos" / f"{name}.jpg")
        assert len(caption.split()) > 3
        assert {path.suffix for path in (tmp_path / "demo" / "maps").glob(f"{name}.*")} == {
            ".png",
            ".gif",
            ".npz",
            ".json",
        }


def test_without_scikit_image_it_says_what_to_install(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "skimage", None)
    assert main(["demo", "--output", str(tmp_path / "demo")]) == 2
    assert "pip install 'captioner[samples]'" in capsys.readouterr().err
