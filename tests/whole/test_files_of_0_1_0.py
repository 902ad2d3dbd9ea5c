"""What version 0.1.0 wrote is read for ever: its files say and do what they did, and its names lead to the same parts.

`tests/files/0.1.0/make.py` made the files, under that version.
"""

from __future__ import annotations

import importlib
import inspect
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from captioner.cli.main import main
from captioner.data import Augmentation, ImageTransform, find_reader, open_image
from captioner.data.features.build_cache import build_cache
from captioner.data.features.cache import FeatureCache
from captioner.data.features.identity import differences, identity
from captioner.data.features.regions import RegionFile
from captioner.data.features.write_regions import RegionWriter
from captioner.predictors import load
from captioner.specs import OLD_MODULES, present_name, public_name
from captioner.types import CaptionedImage

FILES = Path(__file__).parents[1] / "files" / "0.1.0"
EXPECTED = json.loads((FILES / "expected.json").read_text(encoding="utf-8"))
TENSORS = load_file(FILES / "expected.safetensors")
PHOTOS = [FILES / "photos" / f"{number}.png" for number in range(4)]
PATHS = (FILES / "class_paths.txt").read_text(encoding="utf-8").split()


@pytest.fixture
def files(tmp_path, monkeypatch) -> Path:
    """A copy of the folder, to work in."""
    shutil.copytree(FILES, tmp_path / "files")
    monkeypatch.chdir(tmp_path / "files")
    return tmp_path / "files"


def assert_said(captions, name: str, tolerance: float = 1e-4) -> None:
    """The words, their probability and where the model looked, as 0.1.0 had them."""
    for number, (caption, expected) in enumerate(zip(captions, EXPECTED[name], strict=True)):
        assert caption.text == expected["text"]
        assert caption.log_prob == pytest.approx(expected["log_prob"], abs=10 * tolerance)
        alpha = TENSORS[f"{name}.alpha.{number}"].numpy()
        np.testing.assert_allclose(caption.maps.alpha, alpha, atol=tolerance)


def test_a_model_says_the_same_and_looks_at_the_same():
    assert_said(load(FILES / "model.safetensors", "cpu").caption(PHOTOS), "model")


def test_a_feature_cache_is_read_and_added_to(files):
    model = load("model.safetensors", "cpu", cache="features")
    assert_said(
        model.caption(["photos/0.png", "photos/1.png", "photos/2.png", "photos/3.png"]), "model", tolerance=2e-3
    )  # float16
    encoder = model.model.encoder.requires_grad_(False)
    augmented = FeatureCache.open("features", encoder, model.transform, Augmentation())
    assert augmented.load("photos/3.png", view=1).shape == (4, 4, 256)
    open_image("photos/0.png").rotate(90).save("turned.png")
    turned = [CaptionedImage("turned", Path("turned.png"))]
    assert build_cache("features", turned, encoder, model.transform, Augmentation(), 2, num_workers=0) == []
    assert FeatureCache.open("features", encoder, model.transform, Augmentation()).check(turned, views=2) == []


def test_regions_are_read_and_added_to(files):
    bundle = load("model.safetensors", "cpu")
    there, wanted = RegionFile("regions"), identity(bundle.model.encoder, bundle.transform)
    assert there.made_with != wanted  # in letters: its classes have had other names
    assert differences(there.made_with, wanted) == []
    regions = there.read("2.png")
    assert regions.features.shape == (4, 8)
    assert regions.size == (60, 40)
    with RegionWriter("regions", wanted, "float32") as writer:
        writer.add("new", regions)
    assert torch.equal(RegionFile("regions").read("new").features, regions.features)


def test_an_index_leads_to_the_images_of_its_shard():
    items = find_reader(FILES / "shards").read("train")
    assert [item.key for item in items] == ["0.png", "1.png", "2.png", "3.png"]
    assert [item.path.read_bytes() for item in items] == [photo.read_bytes() for photo in PHOTOS]
    assert items[0].captions == ("a red dog runs on the green grass",)


@pytest.mark.parametrize("run", ["photos_run", "dates_run"])
def test_the_checkpoint_of_a_run_says_the_same(run):
    model = load(
        FILES / run / "checkpoints" / "last.ckpt", "cpu", regions=FILES / "regions" if run == "photos_run" else None
    )
    assert_said(model.caption(PHOTOS if run == "photos_run" else EXPECTED["dates"]), run)
    assert model.provenance["config"]["seed_everything"] == 7


@pytest.mark.parametrize("run", ["photos_run", "dates_run"])
def test_a_run_goes_on_to_the_weights_that_it_was_to_have(files, run, capsys):
    assert main(["train", "fit", "-c", f"{run}/config.yaml", "--ckpt_path", "last"]) == 0, capsys.readouterr().err
    end = torch.load(f"{run}/checkpoints/last.ckpt", weights_only=True)
    expected = {key.removeprefix(f"{run}."): value for key, value in TENSORS.items() if key.startswith(f"{run}.")}
    weights = {name: expected[name] for name in end["state_dict"]}
    torch.testing.assert_close(end["state_dict"], weights, atol=1e-4, rtol=1e-4)


def test_a_run_is_exported_and_evaluated_by_its_config(files, capsys, monkeypatch):
    for module in ("java", "scores"):
        monkeypatch.setattr(f"captioner.metrics.{module}.find_java", lambda: None)
    assert main(["export", "photos_run", "--output", "exported.safetensors"]) == 0
    exported = load("exported.safetensors", "cpu", regions="regions")
    assert [caption.text for caption in exported.caption(["photos/0.png"])] == [EXPECTED["photos_run"][0]["text"]]
    arguments = ["--model", "exported.safetensors", "--regions", "regions", "--device", "cpu", "--output", "scores"]
    assert main(["evaluate", "--data", "photos_run/config.yaml", *arguments]) == 0, capsys.readouterr().err


# ------------------------------------------------------------------------------------------ names


def part(path: str) -> type:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def test_every_path_of_a_part_leads_to_it():
    assert len(PATHS) > 100
    for path in PATHS:
        cls = part(present_name(path))
        assert inspect.isclass(cls), path
        assert cls.__name__ == path.rpartition(".")[2]
        assert part(public_name(cls)) is cls


def test_the_table_holds_no_more_than_what_is_gone():
    used = {path.rpartition(".")[0] for path in PATHS}
    assert OLD_MODULES.keys() <= used
    for module in OLD_MODULES:
        with pytest.raises(ImportError):
            importlib.import_module(module)


@pytest.mark.parametrize(
    ("arguments", "place", "expected"),
    [
        (["--model.schedule", "captioner.tasks.schedules.EpochDecay"], ("model", "schedule"), "EpochDecay"),
        (["--model.schedule=captioner.tasks.schedules.EpochDecay"], ("model", "schedule"), "EpochDecay"),
        (["--model.schedule.class_path=captioner.tasks.schedules.EpochDecay"], ("model", "schedule"), "EpochDecay"),
        (
            ["--model.schedule", "{class_path: captioner.tasks.schedules.EpochDecay}"],
            ("model", "schedule"),
            "EpochDecay",
        ),
        (["--model.decoder", "UpDown"], ("model", "decoder"), "UpDown"),
        (["--model.decoder", "captioner.models.decoders.up_down.UpDown"], ("model", "decoder"), "UpDown"),
        (["--data.reader", "captioner.data.synthetic.SyntheticShapes"], ("data", "reader"), "SyntheticShapes"),
    ],
)
def test_old_names_on_the_command_line(arguments, place, expected, capsys):
    tiny = Path(__file__).parents[2] / "configs" / "tiny.yaml"
    with pytest.raises(SystemExit) as stop:
        main(["train", "fit", "-c", str(tiny), *arguments, "--print_config"])
    out, err = capsys.readouterr()
    assert stop.value.code == 0, err
    found = yaml.safe_load(out)
    for key in place:
        found = found[key]
    assert found["class_path"].rpartition(".")[2] == expected
    assert present_name(found["class_path"]) == found["class_path"]


def test_a_config_whose_model_has_no_class_path_is_of_captioning(files, capsys):
    """And `TextData` alone is enough of a name for data."""
    config = yaml.safe_load(Path("dates_run/config.yaml").read_text(encoding="utf-8"))
    assert "class_path" not in config["model"]
    Path("config.yaml").write_text(yaml.safe_dump({**config, "data": {**config["data"], "class_path": "TextData"}}))
    with pytest.raises(SystemExit) as stop:
        main(["train", "fit", "-c", "config.yaml", "--print_config"])
    out, err = capsys.readouterr()
    assert stop.value.code == 0, err
    assert yaml.safe_load(out)["data"]["class_path"] == "captioner.tasks.captioning.TextData"


def test_the_transform_of_a_cache_is_told_by_its_class_and_arguments():
    old = {"class": "captioner.data.transforms.ImageTransform", "size": 64, "fit": "pad"}
    model = load(FILES / "model.safetensors", "cpu").model
    made_with = {**identity(model.encoder, ImageTransform(64, "pad")), "transform": old}
    assert differences(made_with, identity(model.encoder, ImageTransform(64, "pad"))) == []
    (found,) = differences(made_with, identity(model.encoder, ImageTransform(64, "crop")))
    assert found == "the transform's fit: 'pad' there, 'crop' here"
