"""One file per model: what is saved comes back, what is damaged or unsafe is refused by name."""

from __future__ import annotations

import json
import pickle
import struct
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from captioner import checkpoint
from captioner.checkpoint import Bundle, CheckpointError, describe, load_model, rebuild, save_model
from captioner.data.feature_cache import weights_digest
from captioner.data.text import TextTransform
from captioner.decoding import BeamSearch
from captioner.models import AdditiveAttention, Attention, CaptionModel, Encoder, GridEncoder, ShowAttendTell
from captioner.models.encoders.weights import PACKAGED, packaged_file
from captioner.models.encoders.words import WordEncoder
from captioner.predictor import Captioner
from captioner.tokenizer import BytePairs, Characters, WordLevel
from captioner.types import Memory

HERE = __name__.partition(".")[0]


class Doubled(ShowAttendTell):
    """A decoder from outside the package, with arguments of every kind that a file keeps."""

    def __init__(
        self, feature_dim: int, vocab_size: int, scorer: Attention, names: tuple[str, ...], weights_of: dict[str, float]
    ) -> None:
        super().__init__(feature_dim, vocab_size, lambda *sizes: scorer, embed_dim=16, hidden_dim=16)
        self.scorer = scorer
        self.names = names
        self.weights_of = weights_of


class Forgetful(Encoder):
    """Does not keep its argument."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.feature_dim = 4
        self.layer = nn.Linear(size, 4)

    def forward(self, pixels):
        return Memory.from_grid(pixels)


class Secretive(Forgetful):
    """Keeps an argument that no file can hold."""

    def __init__(self, size: object) -> None:
        super().__init__(4)
        self.size = size


class Bomb:
    """Unpickling it runs code."""

    def __reduce__(self):
        return (Path("exploded").touch, ())


def header_of(path: Path) -> dict:
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length])


def photos(draw) -> list[np.ndarray]:
    return [np.asarray(draw(seed)) for seed in range(6)]


def said(bundle, draw) -> list[tuple]:
    captions = Captioner(bundle, "cpu").caption(photos(draw), BeamSearch(3))
    return [(caption.text, caption.log_prob, caption.maps.alpha.tobytes()) for caption in captions]


def rounded(bundle, dtype: torch.dtype):
    """A copy whose matrices have been through another number format."""
    copy = rebuild(describe(bundle), bundle.model.state_dict())
    with torch.no_grad():
        for weight in copy.model.parameters():
            if weight.dim() > 1:
                weight.copy_(weight.to(dtype))
    copy.model.eval()
    return copy


# ------------------------------------------------------------------------------------------ there and back


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_captions_are_those_of_the_stored_numbers(bundle, draw, tmp_path, dtype):
    save_model(bundle, tmp_path / "m.safetensors", dtype)
    loaded = load_model(tmp_path / "m.safetensors")
    assert said(loaded, draw) == said(rounded(bundle, checkpoint.DTYPES[dtype]), draw)
    assert len({text for text, *_ in said(loaded, draw)}) > 1  # it looks at the photos
    assert not loaded.model.training
    assert {weight.dtype for weight in loaded.model.parameters()} == {torch.float32}
    assert loaded.provenance == {"note": "a test"}


def test_same_model_same_bytes(bundle, tmp_path):
    save_model(bundle, tmp_path / "a.safetensors")
    save_model(bundle, tmp_path / "deeper" / "b.safetensors")
    first = (tmp_path / "a.safetensors").read_bytes()
    assert first == (tmp_path / "deeper" / "b.safetensors").read_bytes()
    save_model(load_model(tmp_path / "a.safetensors"), tmp_path / "again.safetensors")
    once = load_model(tmp_path / "again.safetensors")
    save_model(once, tmp_path / "twice.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "twice.safetensors").read_bytes()
    assert [path.name for path in tmp_path.glob("*.tmp")] == []


def test_description_is_one_sorted_text(bundle, tmp_path):
    save_model(bundle, tmp_path / "m.safetensors")
    metadata = header_of(tmp_path / "m.safetensors")["__metadata__"]
    assert list(metadata) == ["captioner"]
    description = json.loads(metadata["captioner"])
    assert metadata["captioner"] == json.dumps(description, sort_keys=True)
    assert description["format"] == checkpoint.FORMAT
    assert description["decoder"]["args"]["attention"]["args"]["attention_dim"] == 8


def test_provenance_of_any_kind_comes_back(bundle, tmp_path):
    bundle = checkpoint.Bundle(bundle.model, bundle.tokenizer, bundle.transform, {"steps": {2: 0.1, 10: (1, 2)}})
    save_model(bundle, tmp_path / "m.safetensors")
    assert load_model(tmp_path / "m.safetensors").provenance == {"steps": {"2": 0.1, "10": [1, 2]}}


CHOICES = [
    {"gate": "none"},
    {"gate": "scalar", "deep_output": False},
    {"gate": "vector", "output_tanh": False, "gated_output": False},
    {"tie_embeddings": True, "hidden_dim": 24},
    {"dropout": 0.25, "normalise_features": False, "project_dim": 12},
    {"embed_dim": 20, "attention": lambda feature_dim, query_dim: AdditiveAttention(feature_dim, query_dim, 9)},
    {"encoder": {"trainable_from": "blocks.2", "mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)}, "fit": "crop"},
    {"encoder": {"name": "timm/test_efficientnet", "layer": "blocks.1", "output_stride": None}},
]


@pytest.mark.parametrize("choice", CHOICES, ids=lambda choice: ",".join(choice))
def test_every_argument_survives(make_bundle, draw, tmp_path, choice):
    made = make_bundle(**choice)
    save_model(made, tmp_path / "m.safetensors", "float32")
    loaded = load_model(tmp_path / "m.safetensors")
    assert {**describe(loaded), "provenance": None} == {**describe(made), "provenance": None}
    assert said(loaded, draw) == said(made, draw)
    trained = [name for name, weight in made.model.named_parameters() if weight.requires_grad]
    assert [name for name, weight in loaded.model.named_parameters() if weight.requires_grad] == trained


def test_tied_embeddings_are_stored_once_and_stay_tied(make_bundle, tmp_path):
    made = make_bundle(tie_embeddings=True)
    save_model(made, tmp_path / "m.safetensors")
    names = header_of(tmp_path / "m.safetensors").keys()
    assert sum(name in ("decoder.embedding.weight", "decoder.output.weight") for name in names) == 1
    decoder = load_model(tmp_path / "m.safetensors").model.decoder
    assert decoder.output.weight is decoder.embedding.weight
    torch.testing.assert_close(decoder.output.weight, made.model.decoder.output.weight, atol=1e-2, rtol=1e-3)


def test_byte_pairs_survive(make_bundle, draw, tmp_path):
    made = make_bundle(tokenizer=BytePairs(60).fit(["a dog runs", "two dogs run", "the running dog"] * 3))
    save_model(made, tmp_path / "m.safetensors", "float32")
    loaded = load_model(tmp_path / "m.safetensors")
    assert said(loaded, draw) == said(made, draw)
    assert loaded.tokenizer.encode("running dogs") == made.tokenizer.encode("running dogs")


def test_parts_from_outside_need_trust(bundle, tmp_path):
    decoder = Doubled(256, bundle.tokenizer.vocab_size, AdditiveAttention(256, 16, 8), ("x", "y"), {"z": 0.5})
    model = checkpoint.CaptionModel(bundle.model.encoder, decoder)
    path = tmp_path / "m.safetensors"
    save_model(checkpoint.Bundle(model, bundle.tokenizer, bundle.transform), path)
    with pytest.raises(CheckpointError, match=f"Doubled, from outside.*--trust {HERE}"):
        load_model(path)
    loaded = load_model(path, trust=[HERE]).model.decoder
    assert type(loaded) is Doubled
    assert (loaded.names, loaded.weights_of) == (["x", "y"], {"z": 0.5})
    assert loaded.attention is loaded.scorer


def test_parts_that_a_file_cannot_describe_are_named(bundle, tmp_path):
    for encoder, message in (
        (Forgetful(4), r"must keep its argument 'size' as self.size"),
        (Secretive(Path()), "'size'"),
    ):
        model = checkpoint.CaptionModel(encoder, bundle.model.decoder)
        with pytest.raises(ValueError, match=message):
            save_model(checkpoint.Bundle(model, bundle.tokenizer, bundle.transform), tmp_path / "m.safetensors")
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------------ the encoder


@pytest.fixture(scope="module")
def packaged(make_bundle):
    """A model with a frozen encoder whose weights a package ships."""
    return make_bundle(encoder={"name": "tf_efficientnet_lite0", "weights": "package", "output_stride": None})


def test_a_frozen_encoder_is_named_not_stored(packaged, draw, tmp_path):
    save_model(packaged, tmp_path / "m.safetensors", "float32")
    assert not any(name.startswith("encoder.") for name in header_of(tmp_path / "m.safetensors"))
    assert said(load_model(tmp_path / "m.safetensors"), draw) == said(packaged, draw)


def test_a_frozen_encoder_is_stored_when_asked(packaged, tmp_path, monkeypatch):
    save_model(packaged, tmp_path / "m.safetensors", include_encoder=True)
    monkeypatch.delitem(PACKAGED, "tf_efficientnet_lite0")
    loaded = load_model(tmp_path / "m.safetensors")
    assert loaded.model.encoder.weights == "package"
    monkeypatch.undo()
    save_model(loaded, tmp_path / "again.safetensors")  # its weights are rounded: the package has others
    assert describe(load_model(tmp_path / "again.safetensors")) == describe(loaded)


def test_an_encoder_that_cannot_be_found_again_is_stored(bundle, make_bundle, tmp_path):
    assert bundle.model.encoder.frozen
    for made in (bundle, make_bundle(encoder={"trainable_from": "blocks.2"})):
        save_model(made, tmp_path / "m.safetensors")
        assert "encoder.network.network.conv_stem.weight" in header_of(tmp_path / "m.safetensors")
        with pytest.raises(ValueError, match="include them"):
            save_model(made, tmp_path / "m.safetensors", include_encoder=False)


def test_an_encoder_from_a_file_is_found_or_missed_by_name(make_bundle, tmp_path):
    weights = tmp_path / "cnn.pth"
    torch.save(torch.load(packaged_file("tf_efficientnet_lite0"), weights_only=True), weights)
    made = make_bundle(encoder={"name": "tf_efficientnet_lite0", "weights": str(weights), "output_stride": None})
    save_model(made, tmp_path / "m.safetensors")
    assert describe(load_model(tmp_path / "m.safetensors"))["encoder_digest"] == describe(made)["encoder_digest"]

    state = torch.load(weights, weights_only=True)
    next(iter(state.values()))[0, 0, 0, 0] += 1e-3
    torch.save(state, weights)
    with pytest.raises(CheckpointError, match=r"m\.safetensors: the encoder's weights found here .*cnn\.pth.* are not"):
        load_model(tmp_path / "m.safetensors")
    weights.unlink()
    with pytest.raises(CheckpointError, match=r"GridEncoder cannot be built: .*cnn\.pth.*no such"):
        load_model(tmp_path / "m.safetensors")


# ------------------------------------------------------------------------------------------ sentences


@pytest.fixture
def translator() -> Bundle:
    """A model that reads sentences."""
    torch.manual_seed(0)
    source, target = WordLevel(1).fit(["der dritte März 1999"]), Characters().fit(["1999-03-03"])
    decoder = ShowAttendTell(12, target.vocab_size, lambda *sizes: AdditiveAttention(*sizes, 8), 8, 8)
    encoder = WordEncoder(source.vocab_size, embed_dim=5, hidden_dim=6, cell="gru")
    return Bundle(CaptionModel(encoder, decoder).eval(), target, TextTransform(source), {"note": "a test"})


def test_a_file_of_a_model_that_reads_sentences_holds_its_vocabulary(translator, tmp_path):
    save_model(translator, tmp_path / "m.safetensors", "float32")
    loaded = load_model(tmp_path / "m.safetensors")
    assert isinstance(loaded.transform, TextTransform)
    assert loaded.transform.words("der erste März") == ["der", "erste", "märz"]
    sentence = "der dritte erste 1999"
    assert torch.equal(loaded.transform(sentence), translator.transform(sentence))
    before, after = (bundle.model.encode(bundle.transform(sentence)[None]) for bundle in (translator, loaded))
    assert torch.equal(after.features, before.features)
    assert torch.equal(after.keys, before.keys)
    assert loaded.tokenizer.decode(loaded.tokenizer.encode("1999-03")) == "1999-03"
    save_model(loaded, tmp_path / "again.safetensors", "float32")
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "m.safetensors").read_bytes()


def test_the_source_vocabulary_is_a_part_of_the_digest(translator, tmp_path):
    path = tmp_path / "m.safetensors"
    save_model(translator, path)
    refused(path, path.read_bytes().replace(b"dritte", b"vierte"), "damaged")


def test_a_file_of_format_1_is_read_as_before(bundle):
    description = describe(bundle)
    assert description["transform"].pop("kind") == "image"
    old = rebuild({**description, "format": 1}, bundle.model.state_dict())
    assert old.transform == bundle.transform


# ------------------------------------------------------------------------------------------ refusals


def test_weights_that_do_not_fit_the_numbers(make_bundle, tmp_path):
    made = make_bundle()
    with torch.no_grad():
        made.model.decoder.output.weight[0, 0] = 1e5
    with pytest.raises(ValueError, match=r"decoder\.output\.weight.*too large for float16: choose bfloat16 or float32"):
        save_model(made, tmp_path / "m.safetensors")
    save_model(made, tmp_path / "m.safetensors", "bfloat16")
    with torch.no_grad():
        made.model.decoder.output.weight[0, 0] = torch.nan
    with pytest.raises(ValueError, match="not finite"):
        save_model(made, tmp_path / "m.safetensors", "float32")
    with pytest.raises(ValueError, match="'int8' is not one of float16"):
        save_model(made, tmp_path / "m.safetensors", "int8")


def test_a_place_that_cannot_be_written_keeps_nothing(bundle, tmp_path):
    (tmp_path / "m.safetensors").mkdir()
    with pytest.raises(OSError, match=r"m\.safetensors"):
        save_model(bundle, tmp_path / "m.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["m.safetensors"]


def refused(path: Path, data: bytes, match: str) -> None:
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=match) as caught:
        load_model(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_truncated_files(model_file, tmp_path):
    data = model_file.read_bytes()
    (header,) = struct.unpack("<Q", data[:8])
    for length in (0, 4, 8, 100, 8 + header - 1, 8 + header, len(data) // 2, len(data) - 1):
        refused(tmp_path / "m.safetensors", data[:length], "damaged")
    refused(tmp_path / "m.safetensors", data + b"x", "damaged")


def test_any_flipped_bit_is_noticed(model_file, tmp_path):
    data = model_file.read_bytes()
    (header,) = struct.unpack("<Q", data[:8])
    rng = np.random.default_rng(0)
    places = [*range(8), *rng.integers(8, 8 + header, 60), *rng.integers(8 + header, len(data), 10)]
    for place in places:
        flipped = bytearray(data)
        flipped[place] ^= 1 << int(rng.integers(8))
        refused(tmp_path / "m.safetensors", bytes(flipped), "damaged|foreign|not a captioner|newer")


def test_foreign_files(tmp_path):
    path = tmp_path / "m.safetensors"
    save_file({"w": torch.zeros(2)}, path)
    refused(path, path.read_bytes(), "not a captioner model; `captioner export`")
    save_file({"w": torch.zeros(2)}, path, metadata={"captioner": "[]"})
    refused(path, path.read_bytes(), "damaged")
    refused(path, b"\x89PNG\r\n\x1a\n" + bytes(99), "damaged, or not a .safetensors file")
    with pytest.raises(CheckpointError, match="no such model file"):
        load_model(tmp_path / "nothing.safetensors")
    with pytest.raises(CheckpointError, match="a folder; `captioner export`"):
        load_model(tmp_path)


def test_newer_format(bundle, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "FORMAT", 7)
    save_model(bundle, tmp_path / "m.safetensors")
    monkeypatch.undo()
    refused(
        tmp_path / "m.safetensors", (tmp_path / "m.safetensors").read_bytes(), "newer captioner .format 7.*pip install"
    )


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


CLASSES = [
    ("os.system", "os.system, from outside this package"),
    ("builtins.exec", "from outside"),
    ("captionerx.Encoder", "from outside"),
    ("exec", "from outside"),
    ("captioner.cli.main.main", "is no Encoder"),
    ("captioner.checkpoint.os.system", "not to be found"),
    ("captioner.checkpoint.Tokenizer", "is no Encoder"),
    ("captioner.models.Decoder", "is no Encoder"),
    ("captioner.models.NoSuchEncoder", "not to be found"),
    ("captioner.nowhere.Encoder", "not to be found"),
]


@pytest.mark.parametrize(("name", "message"), CLASSES)
def test_classes_that_are_not_parts(bundle, name, message):
    description = {**describe(bundle), "encoder": {"class": name, "args": {"command": "touch exploded"}}}
    with pytest.raises(CheckpointError, match=message):
        rebuild(description, bundle.model.state_dict())


def test_a_part_inside_a_part_is_checked_too(bundle):
    description = json.loads(json.dumps(describe(bundle)))
    description["decoder"]["args"]["attention"] = {"class": "os.system", "args": {}}
    with pytest.raises(CheckpointError, match=r"os\.system, from outside"):
        rebuild(description, bundle.model.state_dict())


def test_tensors_that_do_not_fit(bundle):
    state = bundle.model.state_dict()
    name = "decoder.attention.key.weight"
    with pytest.raises(CheckpointError, match=f"{name} is missing"):
        rebuild(describe(bundle), {key: value for key, value in state.items() if key != name})
    with pytest.raises(CheckpointError, match=rf"{name} is \(3,\), not \(8, 256\)"):
        rebuild(describe(bundle), {**state, name: torch.zeros(3)})
    with pytest.raises(CheckpointError, match="spare belongs to no part"):
        rebuild(describe(bundle), {**state, "spare": torch.zeros(3)})


@pytest.mark.parametrize("trained", [{}, {"encoder": {"trainable_from": "blocks.2"}, "tie_embeddings": True}])
def test_weights_that_are_overwritten_are_not_drawn_first(make_bundle, monkeypatch, trained):
    made = make_bundle(**trained)
    description, state = describe(made), made.model.state_dict()
    before = torch.random.get_rng_state()
    rebuilt = rebuild(description, state).model
    assert torch.equal(torch.nn.Linear(64, 8).weight, torch.nn.Linear(64, 8).weight) is False  # others still draw
    monkeypatch.setattr(checkpoint, "_Unfilled", nullcontext)
    torch.random.set_rng_state(before)
    drawn_first = rebuild(description, state).model
    assert weights_digest(rebuilt) == weights_digest(drawn_first) == weights_digest(made.model)


def test_random_weights_are_never_found_again(tmp_path, bundle):
    state = torch.random.get_rng_state()
    encoder = GridEncoder("timm/test_efficientnet", weights="none")
    torch.random.set_rng_state(state)  # building it anew with the same random numbers would give the same weights
    save_model(replace(bundle, model=CaptionModel(encoder, bundle.model.decoder)), tmp_path / "m.safetensors")
    assert load_model(tmp_path / "m.safetensors").model.encoder.feature_dim == encoder.feature_dim
