"""Every config is a training that builds and runs: with small stand-ins for data and weights, for a batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

import captioner
from captioner.cli.train import main
from captioner.comparison import find_variants

FOLDER = Path(captioner.__file__).parents[1] / "configs"
CONFIGS = sorted(FOLDER.glob("*.yaml"))
VARIANTS = [variant for config in CONFIGS for variant in find_variants(config)[1:]]


@pytest.fixture
def small_config(tmp_path):
    """A config with drawn pictures, random weights and one CPU in place of what is large; all else is kept."""

    def write(path: Path) -> Path:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
        config["run_dir"] = str(tmp_path / "run")
        config["trainer"] |= {"accelerator": "cpu", "devices": 1, "num_nodes": 1, "strategy": "auto", "fast_dev_run": 1}
        if "class_path" in config["data"]:  # text: made data, of which fast_dev_run takes what it needs
            config["data"]["init_args"] |= {"batch_size": 2, "num_workers": 0}
        else:
            config["data"] |= small_data(config["data"], tmp_path)
            config["model"]["encoder"] = small_encoder(config["model"]["encoder"])
        config["model"]["init_from"] = None
        config["model"]["compile"] = False  # it takes seconds, see tests/models/attention/test_additive.py
        config["trainer"]["precision"] = "32-true"  # bfloat16 is emulated on most CPUs
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
        return tmp_path / "config.yaml"

    return write


def small_data(data: dict, folder: Path) -> dict:
    """What changes of a config's data."""
    pictures = {"root": str(folder / "pictures"), "num_train": 2, "num_dev": 1, "size": 32}
    return {
        "reader": {"class_path": "captioner.data.readers.SyntheticShapes", "init_args": pictures},
        "vocabulary": {"class_path": "captioner.tokenizer.WordLevel", "init_args": {"min_count": 1}},
        "transform": {**data["transform"], "size": 64},
        "cache_dir": None,
        "cache_views": 1,
        "augmentation": None if data.get("regions") else data.get("augmentation"),
        "regions": None,  # the detector runs live
        "batch_size": 1,
        "num_workers": 0,
    }


def small_encoder(encoder: dict) -> dict:
    """The same encoder with random weights; of detectors the smallest."""
    args = {**encoder.get("init_args", {}), "weights": "none"}
    if encoder["class_path"].endswith("RegionEncoder"):
        args |= {"name": "fasterrcnn_mobilenet_v3_large_320_fpn", "num_regions": 4, "min_regions": 2}
    return {**encoder, "init_args": args}


def test_there_are_configs():
    assert {"tiny", "flickr8k_cpu"} <= {path.stem for path in CONFIGS}


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_a_config_is_parsed(config, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["fit", "-c", str(config), "--print_config"])
    out, err = capsys.readouterr()
    assert stop.value.code == 0, err
    given, parsed = yaml.safe_load(config.read_text(encoding="utf-8")), yaml.safe_load(out)
    data, own = (section.get("init_args", section) for section in (parsed["data"], given["data"]))
    assert data["batch_size"] == own.get("batch_size", data["batch_size"])
    assert parsed["model"]["encoder"]["class_path"] == given["model"]["encoder"]["class_path"]
    assert parsed["run_dir"] == given["run_dir"]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_a_config_fits_a_batch(config, small_config, capsys):
    status = main(["fit", "-c", str(small_config(config))])
    assert status == 0, capsys.readouterr().err


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_a_variant_fits_a_batch(variant, small_config, capsys):
    """It names what it changes, and the same base with it runs; what it trains is what it names."""
    base, change = variant.configs
    given = yaml.safe_load(change.read_text(encoding="utf-8"))
    assert given.keys() == {"model"}
    assert "decoder" in given["model"]
    network = ["--model.encoder.init_args.name=timm/test_efficientnet"]
    status = main(["fit", "-c", str(small_config(base)), "-c", str(change), *network])
    assert status == 0, capsys.readouterr().err


TYPOS = {
    "trainer.max_epohcs": 3,
    "data.reader.init_args.rooot": "x",
    "model.decoder.init_args.attention.init_args.dim": 3,
    "model.optimizer.init_args.learning_rate": 0.1,
    "rundir": "x",
}


@pytest.mark.parametrize("key", TYPOS)
def test_a_typo_is_named(key, tmp_path, capsys):
    """In a config, and on the command line."""
    tiny = next(path for path in CONFIGS if path.stem == "tiny")
    config = yaml.safe_load(tiny.read_text(encoding="utf-8"))
    *parents, name = key.split(".")
    place = config
    for parent in parents:
        place = place.setdefault(parent, {})
    place[name] = TYPOS[key]
    (tmp_path / "typo.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    for given in (["-c", str(tmp_path / "typo.yaml")], ["-c", str(tiny), f"--{key}={TYPOS[key]}"]):
        assert main(["fit", *given, "--run_dir", str(tmp_path)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert name in line
        assert "choose from" in line
