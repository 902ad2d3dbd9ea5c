"""Parts of another package, through all that is done with parts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from model_cases import captions_of, two_images
from torch import Tensor, nn
from torch.nn import functional

import captioner
from captioner.checkpoint import CheckpointError, load_model, save_model
from captioner.cli.main import main
from captioner.models import Attention, RecurrentDecoder
from captioner.models.decoders.base import Readout
from captioner.types import Attended, Memory, State

HERE = __name__.partition(".")[0]


class Cosine(Attention):
    """A scorer from outside the package: the cosine between a query and a key."""

    def __init__(self, feature_dim: int, query_dim: int, sharpness: float = 1.0) -> None:
        super().__init__(feature_dim, query_dim)
        self.sharpness = sharpness
        self.key = nn.Linear(feature_dim, query_dim)

    def project(self, features: Tensor) -> Tensor:
        return functional.normalize(self.key(features), dim=-1)

    def score(self, query: Tensor, keys: Tensor) -> Tensor:
        return self.sharpness * functional.normalize(query, dim=-1) @ keys.mT


class Recounter(RecurrentDecoder):
    """A decoder from outside the package: a GRU that reads words and looks afterwards."""

    def __init__(
        self, feature_dim: int, vocab_size: int, attention: Callable[[int, int], Attention], size: int = 8
    ) -> None:
        super().__init__()
        self.feature_dim = feature_dim
        self.vocab_size = vocab_size
        self.attention = attention(feature_dim, size)
        self.size = size
        self.embedding = nn.Embedding(vocab_size, size)
        self.cell = nn.GRUCell(size, size)
        self.output = nn.Linear(size + feature_dim, vocab_size)

    def prepare(self, memory: Memory) -> Memory:
        return self.attention.prepare(memory)

    def init_state(self, memory: Memory, num_sequences: int) -> State:
        hidden = memory.features.new_zeros(len(memory.features), num_sequences, self.size)
        return {"hidden": hidden, "step": hidden.new_zeros(hidden.shape[:2], dtype=torch.long)}

    def embed(self, tokens: Tensor) -> Tensor:
        return self.embedding(tokens)

    def drive(self, words: Tensor) -> Tensor:
        return words

    def advance(self, drive: Tensor, state: State, memory: Memory) -> tuple[Tensor, Attended, State]:
        hidden = self.cell(drive.flatten(0, 1), state["hidden"].flatten(0, 1)).view(drive.shape)
        return hidden, self.attention(hidden, memory, state["step"]), {"hidden": hidden}

    def predict(self, readout: Readout) -> Tensor:
        return self.output(torch.cat([readout.hidden, readout.context], dim=-1))


def test_parts_from_outside_work_by_their_class_paths_alone(tmp_path):
    """Trained by the command, decoding in validation, saved, loaded with trust."""
    scorer = {"class_path": f"{__name__}.Cosine", "init_args": {"sharpness": 3.0}}
    changes = {
        "run_dir": tmp_path / "run",
        "trainer.max_epochs": 1,
        "trainer.num_sanity_val_steps": 0,
        "trainer.enable_progress_bar": "false",
        "data.reader.init_args.root": tmp_path / "pictures",
        "data.reader.init_args.num_train": 2,
        "data.reader.init_args.num_dev": 2,
        "model.encoder": json.dumps({"class_path": "model_cases.Patches", "init_args": {"feature_dim": 12}}),
        "model.decoder": json.dumps({"class_path": f"{__name__}.Recounter", "init_args": {"attention": scorer}}),
    }
    config = Path(captioner.__file__).parents[1] / "configs" / "tiny.yaml"
    assert main(["train", "fit", "-c", str(config), *(f"--{name}={value}" for name, value in changes.items())]) == 0

    trained = load_model(tmp_path / "run" / "checkpoints" / "last.ckpt", trust=[HERE, "model_cases"])
    path = tmp_path / "m.safetensors"
    save_model(trained, path, "float32")
    with pytest.raises(CheckpointError, match=r"from outside this package; .*--trust model_cases"):
        load_model(path)
    decoder = load_model(path, trust=[HERE, "model_cases"]).model.decoder
    assert type(decoder) is Recounter
    assert type(decoder.attention) is Cosine
    assert decoder.attention.sharpness == 3.0
    found = [
        captions_of(model, two_images())
        for model in (trained.model, load_model(path, trust=[HERE, "model_cases"]).model)
    ]
    assert found[0] == found[1]
