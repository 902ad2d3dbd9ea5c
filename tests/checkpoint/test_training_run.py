"""Models in a run's checkpoint."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from checkpoint_cases import refused

from captioner.checkpoint import describe, load_model, save_model
from captioner.cli.main import main


class Bomb:
    """Unpickling it runs code."""

    def __reduce__(self):
        return (Path("exploded").touch, ())


def test_pickles_run_no_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(tmp_path / "m.safetensors", pickle.dumps(Bomb()), "damaged, or not a .safetensors file")
    torch.save({"captioner": Bomb()}, tmp_path / "m.ckpt")
    refused(tmp_path / "m.ckpt", (tmp_path / "m.ckpt").read_bytes(), "without running code")
    torch.save({"state_dict": {}}, tmp_path / "m.ckpt")
    refused(tmp_path / "m.ckpt", (tmp_path / "m.ckpt").read_bytes(), "not the checkpoint of a captioner")
    torch.save({"captioner": {"format": 1}}, tmp_path / "m.ckpt")
    refused(tmp_path / "m.ckpt", (tmp_path / "m.ckpt").read_bytes(), "damaged")
    assert not Path("exploded").exists()


def checkpoint(bundle, **changes) -> dict:
    """What a training writes, in so far as it is read."""
    state = {f"model.{name}": value for name, value in bundle.model.state_dict().items()}
    made = {"captioner": describe(bundle), "state_dict": state, "epoch": 1, "global_step": 2}
    return {**made, "pytorch-lightning_version": "2", **changes}


DAMAGED = {
    "no file of torch": b"PK but no zip",
    "nothing": b"",
    "a list": [1, 2],
    "no description": {"captioner": None},
    "of text": {"captioner": "text"},
    "a format that is none": {"captioner": {"format": "three"}},
    "no weights": {"state_dict": None},
    "weights that are none": {"state_dict": {"model.decoder.output.bias": 3}},
    "no epoch": {"epoch": None, "pytorch-lightning_version": None},
}


@pytest.mark.parametrize("how", DAMAGED)
def test_damaged_ones_are_an_error_of_one_line(how, bundle, tmp_path, capsys):
    path = tmp_path / "checkpoints" / "last.ckpt"
    path.parent.mkdir()
    content = DAMAGED[how]
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif how == "no epoch":
        made = checkpoint(bundle)
        del made["epoch"]
        torch.save(made, path)
    else:
        torch.save(checkpoint(bundle, **content) if isinstance(content, dict) else content, path)
    refused(path, path.read_bytes(), "damaged|not the checkpoint")
    assert main(["export", str(tmp_path), "--output", str(tmp_path / "m.safetensors")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"captioner: error: {path}: ")
    assert not (tmp_path / "m.safetensors").exists()


def test_a_truncated_one(bundle, tmp_path):
    path = tmp_path / "m.ckpt"
    torch.save(checkpoint(bundle), path)
    whole = path.read_bytes()
    for length in (1, 100, len(whole) // 2, len(whole) - 1):
        refused(path, whole[:length], "damaged")


def test_weights_that_are_no_numbers(bundle, tmp_path):
    made = checkpoint(bundle)
    made["state_dict"]["model.decoder.output.bias"] = made["state_dict"]["model.decoder.output.bias"] * torch.nan
    torch.save(made, tmp_path / "m.ckpt")
    refused(
        tmp_path / "m.ckpt", (tmp_path / "m.ckpt").read_bytes(), r"decoder\.output\.bias has numbers that are not fin"
    )


def test_the_config_beside_it(bundle, tmp_path):
    """Any YAML will do for where a model comes from; what is none is named."""
    path, config = tmp_path / "checkpoints" / "m.ckpt", tmp_path / "config.yaml"
    path.parent.mkdir()
    torch.save(checkpoint(bundle), path)
    config.write_text("day: 2026-03-01\n1: [a]\n")
    found = load_model(path)
    assert found.provenance["config"] == {"day": "2026-03-01", "1": ["a"]}
    save_model(found, tmp_path / "m.safetensors")
    config.write_text("a: [")
    refused(
        path,
        path.read_bytes(),
        r"config of its run cannot be read; mend or remove it \(.*config\.yaml: not a YAML file",
    )
