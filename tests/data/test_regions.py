"""Files of regions: written and read, found by their names, made by a detector or converted, trained on."""

from __future__ import annotations

import base64
import json
import os
import pickle
import signal
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from captioner.data import regions as regions_module
from captioner.data.datamodule import CaptionData
from captioner.data.feature_cache import CacheError, identity
from captioner.data.images import ImageError
from captioner.data.regions import (
    RegionError,
    RegionFile,
    Regions,
    RegionWriter,
    build_regions,
    convert_tsv,
    names_of,
    write_regions,
)
from captioner.data.synthetic import SyntheticShapes
from captioner.data.transforms import ImageTransform
from captioner.tokenizer import WordLevel
from captioner.types import CaptionedImage, Kind

DIM = 5
TRANSFORM = ImageTransform(32)


def random_regions(seed: int, num_regions: int | None = None, size=(60, 40), dim: int = DIM) -> Regions:
    generator = torch.Generator().manual_seed(seed)
    num_regions = num_regions or 1 + seed % 4
    corners = torch.rand(num_regions, 2, 2, generator=generator).sort(dim=1).values * torch.tensor(size)
    features = torch.randn(num_regions, dim, generator=generator)
    return Regions(features, corners.flatten(1), torch.rand(num_regions, generator=generator), size)


def assert_same(read: Regions, given: Regions, dtype=torch.float32) -> None:
    assert torch.equal(read.features, given.features.to(dtype))
    assert torch.equal(read.boxes, given.boxes)
    torch.testing.assert_close(read.scores, given.scores, equal_nan=True, atol=0, rtol=0)
    assert read.size == given.size


def item(key, path="nowhere/photo.jpg") -> CaptionedImage:
    return CaptionedImage(key, Path(path))


@pytest.fixture
def images() -> dict[str, Regions]:
    return {f"{seed}.jpg": random_regions(seed, size=(60 + seed, 40)) for seed in range(10)}


# ------------------------------------------------------------------------------------------------ there and back


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_what_is_written_is_read(tmp_path, images, dtype):
    write_regions(tmp_path / "r.safetensors", images, {"a": 1}, dtype)
    file = RegionFile(tmp_path / "r.safetensors")
    assert (file.feature_dim, file.made_with, list(file.places)) == (DIM, {"a": 1}, list(images))
    for key in reversed(images):
        assert_same(file.read(key), images[key], getattr(torch, dtype))
    with pytest.raises(KeyError):
        file.read("other.jpg")


def test_the_layout_is_as_documented(tmp_path, images):
    write_regions(tmp_path / "r.safetensors", images)
    with safe_open(tmp_path / "r.safetensors", framework="np") as file:
        meta = json.loads(file.metadata()["captioner_regions"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    num_regions = sum(len(regions.boxes) for regions in images.values())
    assert meta == {"format": 1, "keys": list(images), "made_with": None}
    assert {name: (tensor.shape, tensor.dtype.name) for name, tensor in tensors.items()} == {
        "features": ((num_regions, DIM), "float16"),
        "boxes": ((num_regions, 4), "float32"),
        "scores": ((num_regions,), "float32"),
        "starts": ((len(images) + 1,), "int64"),
        "sizes": ((len(images), 2), "int32"),
    }
    start, end = tensors["starts"][3:5]
    assert np.array_equal(tensors["boxes"][start:end], images["3.jpg"].boxes.numpy())
    assert tensors["sizes"][3].tolist() == [63, 40]


def test_shards_are_read_as_one(tmp_path, images):
    with RegionWriter(tmp_path / "r", shard_images=3, dtype="float32") as writer:
        for key, regions in images.items():
            writer.add(key, regions)
    assert len(list((tmp_path / "r").iterdir())) == 4
    file = RegionFile(tmp_path / "r")
    copy = pickle.loads(pickle.dumps(file))
    for key, regions in images.items():
        assert_same(file.read(key), regions)
        assert_same(copy.read(key), regions)
    file.read("0.jpg").features.zero_()
    assert file.read("0.jpg").features.any()


def test_memory_is_padded_masked_and_in_fractions(tmp_path):
    images = {"a": random_regions(0, 2, (100, 50)), "b": random_regions(1, 4, (30, 60)), "c": random_regions(2, 1)}
    write_regions(tmp_path / "r.safetensors", images, dtype="float32")
    file = RegionFile(tmp_path / "r.safetensors")
    memory = file.stack([file.load(item(key), epoch=3, index=0) for key in images])
    (part,) = memory.parts
    assert part.kind is Kind.REGIONS
    assert memory.features.shape == (3, 4, DIM)
    assert memory.mask.tolist() == [[True] * 2 + [False] * 2, [True] * 4, [True] + [False] * 3]
    assert not memory.features[~memory.mask].any() and not part.boxes[~memory.mask].any()
    for row, regions in enumerate(images.values()):
        width, height = regions.size
        for number, (x0, y0, x1, y1) in enumerate(regions.boxes.tolist()):
            expected = torch.tensor([x0 / width, y0 / height, x1 / width, y1 / height])
            torch.testing.assert_close(part.boxes[row, number], expected)
            assert torch.equal(memory.features[row, number], regions.features[number])


# ------------------------------------------------------------------------------------------------ names


@pytest.mark.parametrize(
    ("stored", "wanted"),
    [
        ("391895", item(391895, "val2014/COCO_val2014_000000391895.jpg")),  # COCO's ids
        ("COCO_val2014_000000391895.jpg", item(391895, "val2014/COCO_val2014_000000391895.jpg")),
        ("000000391895", item(391895, "val2017/000000391895.jpg")),
        ("391895", item("000000391895.jpg", "val2017/000000391895.jpg")),  # a folder of COCO's photos
        ("1000268201_693b08cb0e.jpg", item("1000268201_693b08cb0e.jpg", "x/1000268201_693b08cb0e.jpg")),
        ("1000092795", item("1000092795.jpg", "x/1000092795.jpg")),  # Flickr30k's photos are numbers
        ("dev/00001.png", item("dev/00001.png", "x/dev/00001.png")),
        ("00001.png", item("dev/00001.png", "x/dev/00001.png")),
    ],
)
def test_images_are_found_by_id_or_name(tmp_path, stored, wanted):
    regions = random_regions(7)
    write_regions(tmp_path / "r.safetensors", {"other": random_regions(1), stored: regions}, dtype="float32")
    file = RegionFile(tmp_path / "r.safetensors")
    assert file.check([wanted]) == []
    assert_same(file.load(wanted, 0, 0), regions)


def test_the_key_comes_before_the_name(tmp_path):
    images = {"photo": random_regions(1), "photo.jpg": random_regions(2), "5": random_regions(3)}
    write_regions(tmp_path / "r.safetensors", images)
    file = RegionFile(tmp_path / "r.safetensors")
    assert [file.find(wanted) for wanted in (item(5), item(6), item("photo"))] == ["5", "photo.jpg", "photo"]
    assert names_of(item("photo.jpg")) == ["photo.jpg", "photo"]
    assert names_of(item("a_1234.jpg", "a_1234.jpg")) == ["a_1234.jpg", "a_1234"]  # no number of COCO's


def test_an_image_that_is_not_in_is_named(tmp_path, images):
    write_regions(tmp_path / "r.safetensors", images)
    file = RegionFile(tmp_path / "r.safetensors")
    with pytest.raises(
        ImageError, match=r"x/7\.png: is not in .*r\.safetensors, under none of the names '9', '7\.png'"
    ):
        file.load(item(9, "x/7.png"), 0, 0)
    problems = file.check([item("3.jpg"), item("no.jpg", "x/no.jpg"), item("4.jpg")])
    assert [problem.name for problem in problems] == ["x/no.jpg"]
    assert "captioner regions" in problems[0].reason


# ------------------------------------------------------------------------------------------------ refusals


def test_nothing_there(tmp_path):
    for path in (tmp_path, tmp_path / "r", tmp_path / "r.safetensors"):
        with pytest.raises(RegionError, match="no file of regions here; `captioner regions"):
            RegionFile(path)


def test_damaged_and_foreign_files(tmp_path, images):
    path = tmp_path / "r.safetensors"
    write_regions(path, images)
    data = path.read_bytes()
    for length in (0, 7, 100, len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(RegionError, match=r"r\.safetensors: damaged, or not a file of regions"):
            RegionFile(path)
    save_file({"w": torch.zeros(2)}, path)
    with pytest.raises(RegionError, match="but not one of regions"):
        RegionFile(path)
    path.write_bytes(data.replace(b'\\"format\\": 1', b'\\"format\\": 9'))
    with pytest.raises(RegionError, match="newer captioner"):
        RegionFile(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors: tensors["starts"].__setitem__(1, 0),  # an image without regions
        lambda tensors: tensors["starts"].__setitem__(0, 1),
        lambda tensors: tensors["starts"].__setitem__(-1, 10**6),
        lambda tensors: tensors["sizes"].__setitem__(2, 0),
        lambda tensors: tensors.update(scores=tensors["scores"][1:].clone()),
        lambda tensors: tensors.update(boxes=tensors["boxes"].double()),
        lambda tensors: tensors.update(features=tensors["features"].double()),
        lambda tensors: tensors.pop("sizes"),
        lambda tensors: tensors.update(starts=tensors["starts"][:-1].clone()),
    ],
)
def test_tensors_that_do_not_fit_together(tmp_path, images, change):
    path = tmp_path / "r.safetensors"
    write_regions(path, images)
    with safe_open(path, framework="pt") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file(tensors, path, metadata)
    RegionFile(path)
    change(tensors)
    save_file(tensors, path, metadata)
    with pytest.raises(RegionError, match="damaged"):
        RegionFile(path)


def test_files_that_do_not_belong_together(tmp_path, images):
    write_regions(tmp_path / "a.safetensors", images)
    write_regions(tmp_path / "b.safetensors", {"3.jpg": random_regions(1)})
    with pytest.raises(RegionError, match=r"b\.safetensors: the image '3\.jpg' is in .*a\.safetensors too"):
        RegionFile(tmp_path)
    write_regions(tmp_path / "b.safetensors", {"x": random_regions(1, dim=6)})
    with pytest.raises(RegionError, match="have different features"):
        RegionFile(tmp_path)
    write_regions(tmp_path / "b.safetensors", {"x": random_regions(1)}, {"another": "detector"})
    with pytest.raises(RegionError, match="have different features"):
        RegionFile(tmp_path)


@pytest.mark.parametrize(
    ("regions", "message"),
    [
        (random_regions(1)._replace(boxes=torch.zeros(3, 4)), r"'x' has features, boxes and scores of"),
        (Regions(torch.zeros(0, DIM), torch.zeros(0, 4), torch.zeros(0), (1, 1)), "at least one region"),
        (random_regions(1, dim=6), r"not \(R, 5\)"),
        (random_regions(1)._replace(features=torch.full((2, DIM), 1e5)), "float16 cannot hold: try float32"),
        (random_regions(1)._replace(features=torch.full((2, DIM), torch.nan)), "up to nan"),
    ],
)
def test_regions_that_cannot_be_written(tmp_path, regions, message):
    with pytest.raises(RegionError, match=message):
        write_regions(tmp_path / "r.safetensors", {"a": random_regions(2), "x": regions})
    with RegionWriter(tmp_path / "r") as writer:
        writer.add("a", random_regions(2))
        with pytest.raises(RegionError, match=message):
            writer.add("x", regions)
    assert list(RegionFile(tmp_path / "r").places) == ["a"]
    assert not (tmp_path / "r.safetensors").exists()


# ------------------------------------------------------------------------------------------------ with a detector


class Eyes(nn.Module):
    """Finds the whole square and its left half; one weight, to be told from others by."""

    feature_dim = DIM

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = weight
        self.value = nn.Parameter(torch.tensor(weight), requires_grad=False)
        self.num_seen = 0

    def detect(self, pixels):
        self.num_seen += len(pixels)
        boxes = torch.tensor([[0, 0, 1, 1], [0, 0, 0.5, 1]])
        means = pixels.float().mean((1, 2, 3)) / 255 * self.value
        return [(mean + torch.arange(2 * DIM).view(2, DIM), boxes, torch.tensor([0.9, 0.8])) for mean in means]


@pytest.fixture
def items(tmp_path):
    return SyntheticShapes(tmp_path / "pictures", num_train=10, num_dev=4, size=48).read("train")


def build(folder, items, eyes, transform=TRANSFORM, **options):
    made_with = identity(eyes, transform)
    return build_regions(folder, items, eyes.detect, transform, made_with, **{"num_workers": 0, **options})


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
        regions = RegionFile(tmp_path / fit).load(wide, 0, 0)
        assert regions.size == (60, 30)
        assert regions.boxes.tolist() == expected
        assert regions.scores.tolist() == pytest.approx([0.9, 0.8])


def test_what_is_there_is_not_looked_at_again(tmp_path, items):
    eyes = Eyes()
    build(tmp_path / "r", items[:4], eyes, batch_size=3)
    first = {path: path.read_bytes() for path in (tmp_path / "r").iterdir()}
    assert eyes.num_seen == 4
    build(tmp_path / "r", items, eyes)
    assert eyes.num_seen == 10
    assert all(path.read_bytes() == data for path, data in first.items())
    assert RegionFile(tmp_path / "r").check(items) == []


def test_another_detector_needs_another_folder(tmp_path, items):
    build(tmp_path / "r", items[:2], Eyes())
    with pytest.raises(RegionError, match=r"holds other features .*the encoder's weights: "):
        build(tmp_path / "r", items, Eyes(2.0))
    with pytest.raises(RegionError, match="the transform's size: 32 there, 48 here"):
        build(tmp_path / "r", items, Eyes(), ImageTransform(48))
    with pytest.raises(RegionError, match="nothing is known"):
        convert_tsv([], tmp_path / "r")


def test_broken_photos_are_named_and_the_rest_is_done(tmp_path, items):
    broken = item("broken.jpg", tmp_path / "broken.jpg")
    broken.path.write_text("no photo")
    same = item(items[0].key, tmp_path / "elsewhere.jpg")
    problems = build(tmp_path / "r", [*items[:2], broken, same, *items[2:]], Eyes())
    assert {problem.name for problem in problems} == {str(broken.path), str(same.path)}
    assert any("is called 'train/00000.png', as" in problem.reason for problem in problems)
    assert RegionFile(tmp_path / "r").check(items) == []


def test_two_writers_at_once_are_refused(tmp_path, items):
    eyes, errors = Eyes(), []

    def meanwhile(pixels):
        try:
            build(tmp_path / "r", items, Eyes())
        except CacheError as error:
            errors.append(str(error))
        return eyes.detect(pixels)

    build_regions(tmp_path / "r", items[:2], meanwhile, TRANSFORM, num_workers=0)
    assert len(errors) == 1 and "another process is writing" in errors[0]


def test_building_goes_on_after_a_kill(tmp_path, items, monkeypatch):
    torch.set_num_threads(1)  # for the fork
    monkeypatch.setattr(RegionWriter.__init__, "__defaults__", (None, "float16", 2))
    for kill_at in range(3):
        folder, eyes = tmp_path / f"r{kill_at}", Eyes()
        child = os.fork()
        if child == 0:
            calls, to_disk = iter(range(100)), os.fsync

            def killing(file, calls=calls, to_disk=to_disk, kill_at=kill_at):
                if next(calls) == kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)
                to_disk(file)

            monkeypatch.setattr(regions_module.os, "fsync", killing)
            build(folder, items, Eyes())
            os._exit(0)
        assert os.waitpid(child, 0)[1] == signal.SIGKILL
        assert build(folder, items, eyes) == []
        assert eyes.num_seen == 10 - 2 * kill_at
        assert RegionFile(folder).check(items) == []


def test_an_error_loses_no_work(tmp_path, items):
    eyes = Eyes()

    def failing(pixels):
        if eyes.num_seen == 8:
            raise RuntimeError("out of memory")
        return eyes.detect(pixels)

    with pytest.raises(RuntimeError, match="out of memory"):
        build_regions(tmp_path / "r", items, failing, TRANSFORM, num_workers=0)
    assert len(RegionFile(tmp_path / "r").places) == 8


def test_features_belong_to_their_detector(tmp_path, items):
    build(tmp_path / "r", items, Eyes())
    file = RegionFile(tmp_path / "r")
    file.require_for(Eyes(), TRANSFORM)
    with pytest.raises(RegionError, match=r"made with something else: .*the encoder's weights.*PrecomputedRegions"):
        file.require_for(Eyes(2.0), TRANSFORM)
    write_regions(tmp_path / "foreign.safetensors", {"a": random_regions(1)})
    with pytest.raises(RegionError, match="not known what these features were made with.*PrecomputedRegions"):
        RegionFile(tmp_path / "foreign.safetensors").require_for(Eyes(), TRANSFORM)


# ------------------------------------------------------------------------------------------------ other formats


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
        read = file.load(item(int(key)), 0, 0)
        assert_same(read, regions._replace(scores=torch.full_like(regions.scores, torch.nan)))


def test_damaged_lines_are_named_and_the_rest_is_converted(tmp_path):
    good = [tsv_line(seed, random_regions(seed)) for seed in (1, 2)]
    bad = {
        "2 columns, not the 6 of image_id": b"5\t6\n",
        "0 boxes": b"5\t60\t40\t0\t\t\n",
        "invalid literal for int": good[0].replace(b"\t60\t", b"\tsixty\t"),
        "cannot reshape": good[0].replace(b"1\t60\t40\t2", b"5\t60\t40\t3"),
        "not (R, 5)": tsv_line(6, random_regions(1, dim=7)),
        "up to nan": tsv_line(7, random_regions(1)._replace(features=torch.full((2, DIM), torch.nan))),
        "": good[1][:-30],  # cut short, as by a download
    }
    (tmp_path / "a.tsv").write_bytes(good[0] + b"".join(line.rstrip(b"\n") + b"\n" for line in bad.values()) + good[1])
    problems = convert_tsv([tmp_path / "a.tsv"], tmp_path / "r")
    assert [problem.name for problem in problems] == [f"{tmp_path}/a.tsv, line {n}" for n in range(2, len(bad) + 2)]
    for problem, reason in zip(problems, bad, strict=True):
        assert reason in problem.reason
    assert list(RegionFile(tmp_path / "r").places) == ["1", "2"]


# ------------------------------------------------------------------------------------------------ in training


class Task(pl.LightningModule):
    """Keeps the batches that it is given."""

    def __init__(self, encoder) -> None:
        super().__init__()
        self.model = nn.Module()
        self.model.encoder = encoder
        self.bias = nn.Parameter(torch.zeros(()))
        self.batches = []

    def training_step(self, batch, batch_idx):
        self.batches.append(batch)
        return self.bias**2

    def validation_step(self, batch, batch_idx):
        self.batches.append(batch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Blind(nn.Module):
    """Stands for any features, as `PrecomputedRegions` does."""

    def __init__(self, feature_dim: int = DIM) -> None:
        super().__init__()
        self.feature_dim = feature_dim


def fit(tmp_path, encoder, **options):
    reader = SyntheticShapes(tmp_path / "pictures", num_train=10, num_dev=4, size=48)
    module = CaptionData(
        reader, TRANSFORM, WordLevel(min_count=1), regions=str(tmp_path / "r"), batch_size=4, **options
    )
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    task = Task(encoder)
    trainer.fit(task, module)
    return task, module


@pytest.fixture
def everything(tmp_path):
    """Regions of all pictures of both splits, made by `Eyes`."""
    reader = SyntheticShapes(tmp_path / "pictures", num_train=10, num_dev=4, size=48)
    build(tmp_path / "r", [*reader.read("train"), *reader.read("dev")], Eyes())
    return RegionFile(tmp_path / "r")


@pytest.mark.parametrize("encoder", [Eyes, Blind])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_training_and_validation_read_regions(tmp_path, everything, encoder, num_workers):
    task, module = fit(tmp_path, encoder(), num_workers=num_workers)
    seen = sorted(item.key for batch in task.batches for item in batch.items)
    assert seen == sorted(everything.places)
    for batch in task.batches:
        assert batch.source.kinds == (Kind.REGIONS,)
        for of_batch, expected in zip(batch.source.features, batch.items, strict=True):
            assert torch.equal(of_batch, everything.load(expected, 0, 0).features)
    (batch,) = module.eval_loader(module.items("dev"))
    torch.testing.assert_close(batch.source.parts[0].boxes[0], torch.tensor([[0, 0, 1, 1], [0, 0, 0.5, 1]]))


def test_no_image_file_is_opened(tmp_path, everything):
    for path in (tmp_path / "pictures").rglob("*.png"):
        path.write_bytes(b"")
    assert fit(tmp_path, Blind(), num_workers=0)[0].batches


def test_regions_that_do_not_fit_the_model(tmp_path, everything):
    with pytest.raises(RegionError, match="features of size 5, where the encoder says 6"):
        fit(tmp_path, Blind(6))
    with pytest.raises(RegionError, match="made with something else"):
        fit(tmp_path, Eyes(2.0))


def test_images_without_regions_stop_training_by_name(tmp_path, items):
    build(tmp_path / "r", items[1:], Eyes())
    with pytest.raises(
        CacheError, match=r"5 images are not there or cannot be read:\n.*train_48_0/00000\.png: is not in"
    ):
        fit(tmp_path, Blind())


@pytest.mark.parametrize("options", [{"cache_dir": "x"}, {"cache_views": 2}])
def test_regions_go_with_neither_cache_nor_views(tmp_path, options):
    with pytest.raises(ValueError, match="nothing to cache or to augment"):
        fit(tmp_path, Blind(), **options)
