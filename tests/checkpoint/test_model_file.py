"""One file per model: what is saved comes back, what is damaged or unsafe is refused by name."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoint_cases import refused, said
from safetensors import safe_open
from safetensors.torch import save, save_file

from captioner.checkpoint import Bundle, CheckpointError, describe, load_model, model_file, rebuild, save_model
from captioner.checkpoint import bundle as bundle_module
from captioner.data import TextTransform
from captioner.models import CaptionModel, GridEncoder
from captioner.models.encoders.weights import PACKAGED, packaged_file
from captioner.tokenizer import BytePairs


def header_of(path: Path) -> dict:
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length])


def rounded(bundle, dtype: torch.dtype):
    """A copy whose matrices have been through another number format."""
    copy = rebuild(describe(bundle), bundle.model.state_dict())
    with torch.no_grad():
        for weight in copy.model.parameters():
            if weight.dim() > 1:
                weight.copy_(weight.to(dtype))
    copy.model.eval()
    return copy


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_captions_are_those_of_the_stored_numbers(bundle, draw, tmp_path, dtype):
    save_model(bundle, tmp_path / "m.safetensors", dtype)
    loaded = load_model(tmp_path / "m.safetensors")
    assert said(loaded, draw) == said(rounded(bundle, model_file.DTYPES[dtype]), draw)
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
    assert description["format"] == bundle_module.FORMAT
    assert description["decoder"]["args"]["attention"]["args"]["attention_dim"] == 8


def test_provenance_of_any_kind_comes_back(bundle, tmp_path):
    bundle = Bundle(bundle.model, bundle.tokenizer, bundle.transform, {"steps": {2: 0.1, 10: (1, 2)}})
    save_model(bundle, tmp_path / "m.safetensors")
    assert load_model(tmp_path / "m.safetensors").provenance == {"steps": {"2": 0.1, "10": [1, 2]}}


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


def resigned(path: Path, **changes) -> bytes:
    """A model file whose tensors somebody has changed, with a digest that is right."""
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        description = json.loads(file.metadata()["captioner"])
    del description["digest"]
    tensors |= {name: change(tensors[name]) for name, change in changes.items()}
    description["digest"] = model_file._digest(description, tensors)
    return save(tensors, metadata={"captioner": json.dumps(description, sort_keys=True)})


def test_what_is_signed_again_is_looked_at(model_file, tmp_path):
    name, path = "decoder.output.weight", tmp_path / "m.safetensors"
    path.write_bytes(resigned(model_file))
    load_model(path)
    refused(
        path, resigned(model_file, **{name: lambda weight: weight * torch.nan}), f"{name} has numbers that are not fin"
    )
    refused(
        path, resigned(model_file, **{name: lambda weight: weight.int()}), f"{name} has numbers of int32, not float16"
    )
    refused(path, resigned(model_file, **{name: lambda weight: weight[:1]}), rf"{name} is \(1, ")


@pytest.mark.parametrize("address", ["https://example.org/m.safetensors", "s3://x/m.ckpt", "file:///m.ckpt"])
def test_addresses_are_not_fetched(address):
    with pytest.raises(CheckpointError, match=f"{address}: a model is loaded from a file, not from an address"):
        load_model(address)


def test_newer_format(bundle, tmp_path, monkeypatch):
    monkeypatch.setattr(bundle_module, "FORMAT", 7)
    save_model(bundle, tmp_path / "m.safetensors")
    monkeypatch.undo()
    refused(
        tmp_path / "m.safetensors", (tmp_path / "m.safetensors").read_bytes(), "newer captioner .format 7.*pip install"
    )


def test_random_weights_are_never_found_again(tmp_path, bundle):
    state = torch.random.get_rng_state()
    encoder = GridEncoder("timm/test_efficientnet", weights="none")
    torch.random.set_rng_state(state)  # building it anew with the same random numbers would give the same weights
    save_model(replace(bundle, model=CaptionModel(encoder, bundle.model.decoder)), tmp_path / "m.safetensors")
    assert load_model(tmp_path / "m.safetensors").model.encoder.feature_dim == encoder.feature_dim
