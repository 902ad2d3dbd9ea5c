"""Filling a feature cache: what the encoder gives, through kills, broken photos and full disks."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import threading
from collections import namedtuple

import numpy as np
import pytest
import torch
from cache_cases import build
from PIL import Image

from captioner.data.features import build_cache as building
from captioner.data.features.cache import FeatureCache
from captioner.data.features.identity import CacheError
from captioner.data.images import Augmentation, ImageTransform, open_image
from captioner.files import LockedError
from captioner.types import CaptionedImage

TRANSFORM = ImageTransform(32)


def direct(encoder, items):
    with torch.no_grad():
        return encoder.eval()(torch.stack([TRANSFORM(open_image(item.path)) for item in items]))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_cache_holds_what_the_encoder_gives(folder, items, encoder, num_workers):
    encoder.train()
    assert build(folder, items, encoder, num_workers=num_workers) == []
    assert encoder.training  # as it was; but batch normalisation did not see the images
    cache = FeatureCache.open(folder, encoder, TRANSFORM)
    memory = cache.memory([item.path for item in items])
    expected = direct(encoder, items)
    assert memory.grid == expected.grid == (2, 2)
    assert memory.mask.all()
    assert memory.features.dtype == torch.float16
    torch.testing.assert_close(memory.features.float(), expected.features, atol=1e-3, rtol=1e-3)


def test_views_are_augmentations_that_depend_on_the_image_alone(folder, tmp_path, items, encoder):
    augmentation = Augmentation()
    build(folder, items, encoder, augmentation=augmentation, views=3)
    build(tmp_path / "other", items[::-1], encoder, augmentation=augmentation, views=3, batch_size=1)
    cache = FeatureCache.open(folder, encoder, TRANSFORM, augmentation)
    other = FeatureCache.open(tmp_path / "other", encoder, TRANSFORM, augmentation)
    for item in items:
        views = [cache.load(item.path, view) for view in range(3)]
        assert not torch.equal(views[0], views[1])
        assert not torch.equal(views[1], views[2])
        for view in range(3):
            torch.testing.assert_close(views[view], other.load(item.path, view), atol=2e-3, rtol=2e-3)
    plain = direct(encoder, items).features.unflatten(1, (2, 2))
    torch.testing.assert_close(cache.load(items[0].path).float(), plain[0], atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("views", [1, 2])
def test_the_first_view_of_a_large_photo_is_what_captioning_sees(folder, tmp_path, encoder, views):
    """Views after it keep more of the photo's pixels, since crops are taken of them; the first does not."""
    path = tmp_path / "large.jpg"
    noise = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((280, 259)).save(path)
    build(folder, [CaptionedImage(0, path)], encoder, augmentation=Augmentation(), views=views)
    photo = TRANSFORM.photo(path)
    assert photo.pixels.size == (70, 65)
    expected = encoder.eval()(TRANSFORM(photo.pixels, photo.box)[None]).features.unflatten(1, (2, 2))[0]
    cache = FeatureCache.open(folder, encoder, TRANSFORM, Augmentation() if views > 1 else None)
    assert torch.equal(cache.load(path), expected.half())


def test_images_may_be_added_and_are_encoded_once(folder, items, encoder):
    build(folder, items[:4], encoder)
    first = (folder / "features.f16").read_bytes()
    lines = []
    build(folder, items, encoder, report=lines.append)
    assert "6 images to encode" in lines[0]
    assert (folder / "features.f16").read_bytes()[: len(first)] == first
    build(folder, items, encoder, report=lines.append)
    assert "0 images to encode" in lines[1]
    assert FeatureCache.open(folder, encoder, TRANSFORM).check(items) == []
    assert len((folder / "index.jsonl").read_text().splitlines()) == len(items)


def test_views_may_be_added_later(folder, items, encoder):
    build(folder, items, encoder)
    build(folder, items[:3], encoder, augmentation=Augmentation(), views=2)
    cache = FeatureCache.open(folder, encoder, TRANSFORM, Augmentation())
    assert [problem.name for problem in cache.check(items, views=2)] == [str(item.path) for item in items[3:]]
    assert cache.check(items) == []
    assert not torch.equal(cache.load(items[0].path, 0), cache.load(items[0].path, 1))


def test_the_same_picture_under_two_names_is_stored_once(folder, items, encoder, tmp_path):
    copy = CaptionedImage("copy", tmp_path / "copy.png")
    shutil.copy(items[0].path, copy.path)
    build(folder, [*items, copy], encoder)
    assert len((folder / "index.jsonl").read_text().splitlines()) == len(items)
    cache = FeatureCache.open(folder, encoder, TRANSFORM)
    assert torch.equal(cache.load(copy.path), cache.load(items[0].path))


def test_broken_images_are_named_and_the_rest_is_done(folder, items, encoder, tmp_path):
    bad = [CaptionedImage(name, tmp_path / name) for name in ("gone.jpg", "empty.jpg", "text.jpg", "cut.png")]
    bad[1].path.write_bytes(b"")
    bad[2].path.write_text("not an image")
    bad[3].path.write_bytes(items[0].path.read_bytes()[:100])
    problems = build(folder, [*bad, *items], encoder)
    assert sorted(problem.name for problem in problems) == sorted(str(item.path) for item in bad)
    cache = FeatureCache.open(folder, encoder, TRANSFORM)
    assert cache.check(items) == []
    assert len(cache.check(bad)) == 4


def test_a_fine_tuned_encoder_and_views_without_augmentation_are_refused(folder, items, encoder):
    with pytest.raises(ValueError, match="2 views need an augmentation"):
        build(folder, items, encoder, views=2)
    encoder.network[0].requires_grad_(True)
    with pytest.raises(ValueError, match="frozen"):
        build(folder, items, encoder)


def test_features_that_float16_cannot_hold_are_refused(folder, items, encoder):
    encoder.scale.fill_(1e6)
    with pytest.raises(CacheError, match="float16 cannot hold"):
        build(folder, items, encoder)


def test_a_full_disk_is_seen_before_anything_is_encoded(folder, items, encoder, monkeypatch):
    usage = namedtuple("usage", "free")(100)
    monkeypatch.setattr(building.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(CacheError, match=r"480 bytes of disk needed, but 100 bytes free"):
        build(folder, items, encoder)
    assert (folder / "features.f16").stat().st_size == 0


def test_two_builders_at_once_are_refused(folder, items, encoder):
    errors = []

    def meanwhile(line):
        try:
            build(folder, items, encoder)
        except LockedError as error:
            errors.append(str(error))

    build(folder, items, encoder, report=meanwhile)
    assert len(errors) == 1
    assert "another process is writing to it" in errors[0]


def test_a_second_builder_may_wait_and_finds_all_there(folder, items, encoder):
    lines: list[str] = []
    second = threading.Thread(target=lambda: build(folder, items, encoder, report=lines.append, wait=True), daemon=True)

    def meanwhile(line):
        second.start()
        second.join(0.1)
        assert second.is_alive()

    build(folder, items, encoder, report=meanwhile)
    second.join(10)
    assert [": 0 images to encode" in line for line in lines] == [True]
    assert FeatureCache.open(folder, encoder, TRANSFORM).check(items) == []


def content(folder, items, encoder):
    cache = FeatureCache.open(folder, encoder, TRANSFORM)
    assert cache.check(items) == []
    return cache.memory([item.path for item in items]).features


def test_building_goes_on_after_a_kill(folder, items, encoder, tmp_path, monkeypatch):
    torch.set_num_threads(1)  # for the fork
    build(tmp_path / "whole", items, encoder, batch_size=2)
    expected = content(tmp_path / "whole", items, encoder)
    to_disk = building._to_disk
    for kill_at in range(1, 11):
        calls = iter(range(100))

        def killing(file, calls=calls, kill_at=kill_at):
            if next(calls) == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            to_disk(file)

        child = os.fork()
        if child == 0:
            monkeypatch.setattr(building, "_to_disk", killing)
            build(folder, items, encoder, batch_size=2)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == (signal.SIGKILL if kill_at < 10 else 0)
        lines = []
        build(folder, items, encoder, batch_size=2, report=lines.append)
        assert f"{10 - kill_at // 2 * 2} images to encode" in lines[0]
        torch.testing.assert_close(content(folder, items, encoder), expected, atol=2e-3, rtol=2e-3)
        shutil.rmtree(folder)


def test_whatever_a_kill_leaves_in_the_files_is_mended(folder, items, encoder):
    build(folder, items[:3], encoder, batch_size=1)
    index, features = (folder / "index.jsonl").read_bytes(), (folder / "features.f16").read_bytes()
    expected = content(folder, items[:3], encoder)
    for length in range(0, len(index), 37):
        (folder / "index.jsonl").write_bytes(index[:length])  # cut anywhere
        (folder / "features.f16").write_bytes(features + b"garbage")
        build(folder, items[:3], encoder, batch_size=1)
        assert torch.equal(content(folder, items[:3], encoder), expected)
        assert (folder / "features.f16").stat().st_size == len(features)


def test_features_are_on_the_disk_before_the_index_names_them(folder, items, encoder, monkeypatch):
    order = []
    to_disk = building._to_disk
    monkeypatch.setattr(building, "_to_disk", lambda file: (order.append(os.path.basename(file.name)), to_disk(file)))
    build(folder, items[:2], encoder, batch_size=1)
    assert order == ["features.f16", "index.jsonl"] * 2


def test_the_index_is_readable(folder, items, encoder):
    build(folder, items, encoder)
    lines = [json.loads(line) for line in (folder / "index.jsonl").read_text().splitlines()]
    assert [line["name"] for line in lines] == [str(item.path) for item in items]
    assert lines[0]["sha256"] == hashlib.sha256(items[0].path.read_bytes()).hexdigest()
    rows = np.fromfile(folder / "features.f16", dtype=np.float16).reshape(-1, 2, 2, 6)
    assert len(rows) == len(items)
