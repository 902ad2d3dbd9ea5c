"""Photos that a command line names."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tarfile
from pathlib import Path

import pytest


def test_globs_and_order(run, album, monkeypatch):
    monkeypatch.chdir(album)
    status, out, err = run("t*.bmp", "de eper/*.tiff", "grey.png", "./tiny.bmp", "**/*.webp")
    assert (status, err) == (0, [])
    assert [line.partition(": ")[0] for line in out] == ["tiny.bmp", "de eper/plain.tiff", "grey.png", "web.webp"]


def test_paths_that_give_nothing(run, album, tmp_path):
    (tmp_path / "none").mkdir()
    status, out, err = run(tmp_path / "none", tmp_path / "*.jpg", tmp_path / "gone.jpg", album / "grey.png")
    assert (status, len(out)) == (1, 1)
    assert err == [
        f"captioner: {tmp_path}/none: no image in this folder",
        f"captioner: {tmp_path}/*.jpg: no image matches this pattern",
        f"captioner: {tmp_path}/gone.jpg: no such file or folder",
    ]
    assert run(tmp_path / "gone.jpg")[:2] == (1, [])


def test_long_and_strange_names_survive(run, album, tmp_path):
    folder = tmp_path / ("x" * 150 + " [bold]y[red]")
    folder.mkdir()
    good = folder / ("é" * 60 + " %s {} \\n " + "z" * 60 + ".png")
    assert len(str(good)) > 300
    shutil.copy(album / "grey.png", good)
    shutil.copy(album / "half.png", good.with_suffix(".PNG"))
    status, out, err = run(folder)
    assert status == 1
    assert len(out) == len(err) == 1
    assert out[0].startswith(f"{good}: ")
    assert err[0].startswith(f"captioner: {good.with_suffix('.PNG')}: damaged")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_names_that_are_no_text(run, album, tmp_path):
    for name in (b"\xff.png", b"two\nlines.png"):
        shutil.copy(album / "grey.png", os.fsencode(tmp_path) + b"/" + name)
        shutil.copy(album / "half.png", os.fsencode(tmp_path) + b"/broken " + name)
    status, out, err = run(tmp_path)
    assert (status, len(out), len(err)) == (1, 2, 2)
    assert any(r"\udcff.png" in line for line in out)
    assert any(r"two\nlines.png" in line for line in out)
    status, *_ = run(tmp_path, "--output", tmp_path / "out.jsonl")
    found = [json.loads(line)["image"] for line in (tmp_path / "out.jsonl").read_text("utf-8").splitlines()]
    assert sorted(os.fsencode(Path(path).name) for path in found) == [b"two\nlines.png", b"\xff.png"]


def test_shards_by_the_plain_command(run, album, tmp_path):
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        for name in ("grey.png", "half.png"):
            tar.add(album / name, name)
    status, out, err = run(tmp_path / "s.tar", album / "tiny.bmp", "--output", tmp_path / "out.jsonl")
    assert (status, out, len(err)) == (1, [], 1)
    assert err[0].startswith(f"captioner: {tmp_path}/s.tar/half.png: damaged")
    found = [json.loads(line)["image"] for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert found == [str(album / "tiny.bmp"), f"{tmp_path}/s.tar/grey.png"]
