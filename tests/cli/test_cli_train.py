"""A whole training by the command: a run's folder, going on with it, exporting it, and errors without a traceback."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import yaml

import captioner
from captioner.checkpoint import load_model
from captioner.cli import train
from captioner.cli.main import main
from captioner.predictor import load

TINY = Path(captioner.__file__).parents[1] / "configs" / "tiny.yaml"


def arguments(root: Path, epochs: int) -> list[str]:
    """The tiny config with fewer pictures and a smaller network."""
    changes = {
        "run_dir": root / "run",
        "trainer.max_epochs": epochs,
        "trainer.num_sanity_val_steps": 0,
        "trainer.enable_progress_bar": "false",
        "samples.num_samples": 1,
        "data.reader.init_args.root": root / "pictures",
        "data.reader.init_args.num_train": 8,
        "data.reader.init_args.num_dev": 4,
        "data.batch_size": 4,
        "model.encoder.init_args": json.dumps(
            {"name": "timm/test_efficientnet", "weights": "none", "output_stride": 16, "trainable_from": "blocks.2"}
        ),
    }
    return ["train", "fit", "-c", str(TINY), *(f"--{name}={value}" for name, value in changes.items())]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder in which a run of two epochs has been made."""
    root = tmp_path_factory.mktemp("training")
    assert main(arguments(root, 2)) == 0
    return root


def test_a_runs_folder(root):
    config = yaml.safe_load((root / "run" / "config.yaml").read_text())
    assert config["trainer"]["max_epochs"] == 2
    checkpoints = sorted(path.name for path in (root / "run" / "checkpoints").iterdir())
    assert len(checkpoints) == 2
    assert checkpoints[0].startswith("best-0")
    assert checkpoints[1] == "last.ckpt"
    assert len(list((root / "run").glob("events.*"))) == 1


def test_export_of_the_folder_or_a_checkpoint(root, tmp_path, capsys, draw):
    (best,) = (root / "run" / "checkpoints").glob("best*.ckpt")
    for run, name in ((root / "run", "a"), (best, "b")):
        output = tmp_path / f"{name}.safetensors"
        assert main(["export", str(run), "--output", str(output), "--dtype", "float32"]) == 0
        said = f"{output}: {output.stat().st_size / 1e6:.1f} MB, from {best}\n"
        assert capsys.readouterr().out == said
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    exported, trained = load_model(tmp_path / "a.safetensors"), load_model(best)
    assert exported.provenance == trained.provenance
    assert exported.provenance["config"]["trainer"]["max_epochs"] == 2
    assert exported.provenance["metrics"]["val/cider"] >= 0
    assert {"captioner", "torch", "timm", "lightning"} < exported.provenance["versions"].keys()
    said = [load(path, "cpu").caption(draw(0))[0] for path in (tmp_path / "a.safetensors", best)]
    assert (said[0].text, said[0].log_prob) == (said[1].text, said[1].log_prob)


def test_export_with_another_fit_and_of_an_exported_model(root, tmp_path):
    first, second = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    assert main(["export", str(root / "run"), "--output", str(first)]) == 0
    assert load_model(first).transform.fit == "squash"
    assert main(["export", str(first), "--fit", "pad", "--output", str(second)]) == 0
    assert load_model(second).transform.fit == "pad"
    assert load_model(second).provenance == load_model(first).provenance


def test_what_cannot_be_exported(root, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "two" / "checkpoints").mkdir(parents=True)
    for name in ("best-1.ckpt", "best-2.ckpt"):
        (tmp_path / "two" / "checkpoints" / name).touch()
    output = str(tmp_path / "m.safetensors")
    cases = [
        ([str(root / "run"), "--output", "m.pt"], "must end in .safetensors"),
        ([str(tmp_path / "empty"), "--output", output], "neither a .ckpt file nor a run's folder"),
        ([str(tmp_path / "gone"), "--output", output], "neither a .ckpt file nor a run's folder"),
        ([str(tmp_path / "two"), "--output", output], "several best checkpoints"),
        ([str(TINY), "--output", output], "tiny.yaml: damaged, or not a .safetensors file"),
    ]
    for given, message in cases:
        assert main(["export", *given]) == 2
        err = capsys.readouterr().err
        assert err.startswith("captioner: error: ")
        assert message in err
        assert len(err.splitlines()) == 1
    assert not Path(output).exists()


def test_a_run_is_not_trained_over(root, capsys):
    before = (root / "run" / "checkpoints" / "last.ckpt").read_bytes()
    assert main(arguments(root, 1)) == 2
    assert "holds a run already: go on with it by --ckpt_path last" in capsys.readouterr().err
    assert (root / "run" / "checkpoints" / "last.ckpt").read_bytes() == before


def test_going_on(root):
    assert main([*arguments(root, 3), "--ckpt_path", "last"]) == 0
    assert load_model(root / "run" / "checkpoints" / "last.ckpt").provenance["step"] == 6


def test_errors_are_one_line(tmp_path, capsys):
    cases = {
        "--model.encoder.init_args.name=nonet": "no encoder 'nonet'",
        "--model.init_from=gone.ckpt": "gone.ckpt: no such model file",
        "--data.vocabulary.init_args.min_count=99": "no word of the captions",
        "--trainer.max_epochs=-1": "max_epochs",
        "--save_every_n_steps=0": "every_n_steps must be at least 1",
    }
    for change, message in cases.items():
        assert main([*arguments(tmp_path, 1), change]) == 2, change
        line = capsys.readouterr().err.splitlines()[-1]
        assert line.startswith("captioner: error: "), change
        assert message in line


def test_a_failed_download_names_the_other_ways(tmp_path, capsys, monkeypatch):
    def fail(*arguments, **options):
        raise OSError("no network here")

    monkeypatch.setattr("timm.create_model", fail)
    assert main([*arguments(tmp_path, 1), "--model.encoder.init_args.weights=default"]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("captioner: error: ")
    assert "could not be downloaded" in line
    assert "weights=" in line


def test_lightnings_chatter_is_left_out():
    def passes(message: str) -> bool:
        return train._is_no_noise(logging.LogRecord("pytorch_lightning", 20, "", 0, message, None, None))

    assert not passes("`weights_only` was not set, defaulting to `False`.")
    assert not passes("💡 Tip: For seamless cloud logging and experiment tracking, try installing [litlogger]")
    assert not passes("`isinstance(treespec, LeafSpec)` is deprecated, use `isinstance(treespec, TreeSpec)`")
    assert passes("`Trainer.fit` stopped: `max_epochs=2` reached.")
    assert passes("GPU available: True, used: True")


def test_processes_of_torchrun_that_the_trainer_does_not_know_of(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("pytorch_lightning.trainer.Trainer.world_size", 1)
    assert main(arguments(tmp_path, 1)) == 2
    assert "torchrun started 2 processes, and the trainer is of 1: give --trainer.devices" in capsys.readouterr().err
    assert not (tmp_path / "run" / "checkpoints").exists()
