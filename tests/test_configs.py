"""Every config is a training that builds and runs: with small stand-ins for data and weights, for two batches."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

import captioner
from captioner.cli.train import main

CONFIGS = sorted((Path(captioner.__file__).parents[1] / "configs").glob("*.yaml"))


@pytest.fixture
def small_config(tmp_path):
    """A config with drawn pictures, random weights and one CPU in place of what is large; all else is kept."""

    def write(path: Path) -> Path:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
        pictures = {"root": str(tmp_path / "pictures"), "num_train": 4, "num_dev": 2, "size": 32}
        config["run_dir"] = str(tmp_path / "run")
        config["trainer"] |= {"accelerator": "cpu", "devices": 1, "num_nodes": 1, "strategy": "auto", "fast_dev_run": 2}
        config["data"] |= {
            "reader": {"class_path": "captioner.data.synthetic.SyntheticShapes", "init_args": pictures},
            "vocabulary": {"class_path": "captioner.tokenizer.WordLevel", "init_args": {"min_count": 1}},
            "transform": {**config["data"]["transform"], "size": 64},
            "cache_dir": None,
            "cache_views": 1,
            "batch_size": 2,
            "num_workers": 0,
        }
        config["model"]["encoder"].setdefault("init_args", {})["weights"] = "none"
        config["model"]["init_from"] = None
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
        return tmp_path / "config.yaml"

    return write


def test_there_are_configs():
    assert {"tiny", "flickr8k_cpu"} <= {path.stem for path in CONFIGS}


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_a_config_is_parsed(config, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["fit", "-c", str(config), "--print_config"])
    out, err = capsys.readouterr()
    assert stop.value.code == 0, err
    given, parsed = yaml.safe_load(config.read_text(encoding="utf-8")), yaml.safe_load(out)
    assert parsed["data"]["batch_size"] == given["data"].get("batch_size", parsed["data"]["batch_size"])
    assert parsed["model"]["encoder"]["class_path"].endswith("GridEncoder")
    assert parsed["run_dir"] == given["run_dir"]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_a_config_fits_two_batches(config, small_config, capsys):
    status = main(["fit", "-c", str(small_config(config))])
    assert status == 0, capsys.readouterr().err


TYPOS = {
    "trainer.max_epoch": 3,
    "data.batchsize": 3,
    "data.reader.init_args.rooot": "x",
    "model.encoder.init_args.nam": "x",
    "model.decoder.init_args.hiden_dim": 3,
    "model.decoder.init_args.attention.init_args.dim": 3,
    "model.optimizer.init_args.learning_rate": 0.1,
    "best.monitr": "x",
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
    with pytest.raises(SystemExit) as stop:
        main(["fit", "-c", str(tmp_path / "typo.yaml"), "--run_dir", str(tmp_path)])
    assert stop.value.code == 2
    err = capsys.readouterr().err
    assert name in err
    assert "Traceback" not in err
