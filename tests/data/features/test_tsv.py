"""Features of others, converted."""

from __future__ import annotations

import base64
from pathlib import Path

import torch
from region_cases import DIM, assert_same, random_regions

from captioner.data.features.regions import RegionFile, Regions
from captioner.data.features.tsv import convert_tsv
from captioner.types import CaptionedImage


def item(key, path="nowhere/photo.jpg") -> CaptionedImage:
    return CaptionedImage(key, Path(path))


def tsv_line(key, regions: Regions) -> bytes:
    numbers = [base64.b64encode(tensor.numpy().astype("<f4").tobytes()) for tensor in (regions.boxes, regions.features)]
    head = "\t".join(map(str, (key, *regions.size, len(regions.boxes))))
    return b"\t".join([head.encode(), *numbers]) + b"\n"


def test_bottom_up_features_are_converted(tmp_path):
    images = {str(1000 + seed): random_regions(seed) for seed in range(6)}
    lines = [tsv_line(key, regions) for key, regions in images.items()]
    (tmp_path / "a.tsv").write_bytes(b"".join(lines[:4]))
    (tmp_path / "b.tsv").write_bytes(lines[3] + lines[4] + b"\n" + lines[5].replace(b"\n", b"\r\n"))
    assert convert_tsv([tmp_path / "a.tsv", tmp_path / "b.tsv"], tmp_path / "r", "float32") == []
    file = RegionFile(tmp_path / "r")
    assert list(file.places) == list(images) and file.made_with is None
    for key, regions in images.items():
        read = file.load(item(int(key)))
        assert_same(read, regions._replace(scores=torch.full_like(regions.scores, torch.nan)))


def test_damaged_lines_are_named_and_the_rest_is_converted(tmp_path):
    good = [tsv_line(seed, random_regions(seed)) for seed in (1, 2)]
    bad = {
        "2 columns, not the 6 of image_id": b"5\t6\n",
        "0 boxes": b"5\t60\t40\t0\t\t\n",
        "invalid literal for int": good[0].replace(b"\t60\t", b"\tsixty\t"),
        "cannot reshape": good[0].replace(b"1\t60\t40\t2", b"5\t60\t40\t3"),
        "not (R, 5)": tsv_line(6, random_regions(1, dim=7)),
        "not finite numbers": tsv_line(7, random_regions(1)._replace(features=torch.full((2, DIM), torch.nan))),
        "": good[1][:-30],  # cut short, as by a download
    }
    (tmp_path / "a.tsv").write_bytes(good[0] + b"".join(line.rstrip(b"\n") + b"\n" for line in bad.values()) + good[1])
    problems = convert_tsv([tmp_path / "a.tsv"], tmp_path / "r")
    assert [problem.name for problem in problems] == [f"{tmp_path}/a.tsv, line {n}" for n in range(2, len(bad) + 2)]
    for problem, reason in zip(problems, bad, strict=True):
        assert reason in problem.reason
    assert list(RegionFile(tmp_path / "r").places) == ["1", "2"]
