"""Models in a run's checkpoint."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from checkpoint_cases import refused


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
