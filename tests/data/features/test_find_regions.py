"""Filling a folder with what a detector finds, through kills and broken photos."""

from __future__ import annotations

import os
import re
import shutil
import signal
from pathlib import Path

import pytest
import torch
from region_cases import Eyes, build

from captioner.data.features import write_regions as writing
from captioner.data.features.find_regions import build_regions

# MISSING fit
from captioner.data.features.regions import RegionError, RegionFile
from captioner.data.features.tsv import convert_tsv
from captioner.data.features.write_regions import RegionWriter
from captioner.data.images import ImageTransform
from captioner.files import LockedError
from captioner.types import CaptionedImage

TRANSFORM = ImageTransform(32)


def item(key, path="nowhere/photo.jpg") -> CaptionedImage:
    return CaptionedImage(key, Path(path))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_what_the_detector_finds_is_in_pixels_of_the_photo(tmp_path, draw, num_workers):
    draw(0, 60, 30).save(tmp_path / "wide.png")
    for fit, expected in (
        ("squash", [[0, 0, 60, 30], [0, 0, 30, 30]]),
        ("crop", [[15, 0, 45, 30], [15, 0, 30, 30]]),
        ("pad", [[0, 0, 60, 30], [0, 0, 30, 30]]),  # without what was padded
    ):
        wide = item("wide.png", tmp_path / "wide.png")
        assert build(tmp_path / fit, [wide], Eyes(), ImageTransform(30, fit), num_workers=num_workers) == []
        regions = RegionFile(tmp_path / fit).load(wide)
        assert regions.size == (60, 30)
        assert regions.boxes.tolist() == expected
        assert regions.scores.tolist() == pytest.approx([0.9, 0.8])


def test_what_is_there_is_not_looked_at_again(tmp_path, pictures):
    eyes = Eyes()
    build(tmp_path / "r", pictures[:4], eyes, batch_size=3)
    first = {path: path.read_bytes() for path in (tmp_path / "r").iterdir()}
    assert eyes.num_seen == 4
    build(tmp_path / "r", pictures, eyes)
    assert eyes.num_seen == 10
    assert all(path.read_bytes() == data for path, data in first.items())
    assert RegionFile(tmp_path / "r").check(pictures) == []


def test_another_detector_needs_another_folder(tmp_path, pictures):
    build(tmp_path / "r", pictures[:2], Eyes())
    with pytest.raises(RegionError, match=r"holds other features .*the encoder's weights: "):
        build(tmp_path / "r", pictures, Eyes(2.0))
    with pytest.raises(RegionError, match="the transform's size: 32 there, 48 here"):
        build(tmp_path / "r", pictures, Eyes(), ImageTransform(48))
    with pytest.raises(RegionError, match="nothing is known"):
        convert_tsv([], tmp_path / "r")


def test_broken_photos_are_named_and_the_rest_is_done(tmp_path, pictures):
    broken = item("broken.jpg", tmp_path / "broken.jpg")
    broken.path.write_text("no photo")
    same = item(pictures[0].key, tmp_path / "elsewhere.jpg")
    problems = build(tmp_path / "r", [*pictures[:2], broken, same, *pictures[2:]], Eyes())
    assert {problem.name for problem in problems} == {str(broken.path), str(same.path)}
    assert any("is called 'train/00000.png', as" in problem.reason for problem in problems)
    assert RegionFile(tmp_path / "r").check(pictures) == []


@pytest.mark.parametrize("is_known", [True, False])
def test_a_second_photo_of_one_name_is_an_error_in_a_later_call_too(tmp_path, draw, monkeypatch, is_known):
    for number, folder in enumerate("abc"):
        (tmp_path / folder).mkdir()
        draw(number, 60, 30 + number).save(tmp_path / folder / "1.png")
    shutil.copy(tmp_path / "a/1.png", tmp_path / "c/1.png")  # another place is not another photo
    photos = [item("1.png", tmp_path / folder / "1.png") for folder in "abc"]
    if not is_known:  # as in files of earlier versions, which have no more than the size
        add = RegionWriter.add
        monkeypatch.setattr(RegionWriter, "add", lambda self, key, found: add(self, key, found._replace(photo=None)))
    eyes = Eyes()
    assert build(tmp_path / "r", photos[:1], eyes) == []
    assert (RegionFile(tmp_path / "r").photo("1.png")[0] is not None) == is_known
    for photo in (photos[0], photos[2]):
        assert build(tmp_path / "r", [photo], eyes) == []
    draw(3).save(tmp_path / "2.png")
    (problem,) = build(tmp_path / "r", [photos[1], item("2.png", tmp_path / "2.png")], eyes)
    assert problem.name == str(tmp_path / "b/1.png")
    assert re.match(r"is called '1.png', and the regions that .*/r holds .* another photo.*: rename", problem.reason)
    assert eyes.num_seen == 2
    assert set(RegionFile(tmp_path / "r").places) == {"1.png", "2.png"}


def test_a_photo_that_is_gone_since_is_named(tmp_path, pictures):
    build(tmp_path / "r", pictures[:2], Eyes())
    gone = [item(pictures[0].key, tmp_path / "gone.png"), item("new.png", tmp_path / "new.png")]
    problems = build(tmp_path / "r", [*gone, pictures[1]], Eyes())
    assert [(Path(problem.name).name, problem.reason) for problem in problems] == [
        ("gone.png", "No such file or directory"),
        ("new.png", "No such file or directory"),
    ]


def test_two_writers_at_once_are_refused(tmp_path, pictures):
    eyes, errors = Eyes(), []

    def meanwhile(pixels):
        try:
            build(tmp_path / "r", pictures, Eyes())
        except LockedError as error:
            errors.append(str(error))
        return eyes.detect(pixels)

    build_regions(tmp_path / "r", pictures[:2], meanwhile, TRANSFORM, num_workers=0)
    assert len(errors) == 1 and "another process is writing" in errors[0]


def test_building_goes_on_after_a_kill(tmp_path, pictures, monkeypatch):
    torch.set_num_threads(1)  # for the fork
    monkeypatch.setattr(RegionWriter.__init__, "__defaults__", (None, "float16", 2))
    for kill_at in range(3):
        folder, eyes = tmp_path / f"r{kill_at}", Eyes()
        child = os.fork()
        if child == 0:
            calls, write = iter(range(100)), writing.write_whole

            def killing(path, content, calls=calls, write=write, kill_at=kill_at):
                if next(calls) == kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)
                write(path, content)

            try:
                writing.write_whole = killing
                build(folder, pictures, Eyes())
            finally:
                os._exit(1)
        assert os.waitpid(child, 0)[1] == signal.SIGKILL
        assert build(folder, pictures, eyes) == []
        assert eyes.num_seen == 10 - 2 * kill_at
        assert RegionFile(folder).check(pictures) == []


def test_an_error_loses_no_work(tmp_path, pictures):
    eyes = Eyes()

    def failing(pixels):
        if eyes.num_seen == 8:
            raise RuntimeError("out of memory")
        return eyes.detect(pixels)

    with pytest.raises(RuntimeError, match="out of memory"):
        build_regions(tmp_path / "r", pictures, failing, TRANSFORM, num_workers=0)
    assert len(RegionFile(tmp_path / "r").places) == 8
