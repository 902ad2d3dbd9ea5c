"""Several memories at once: their kinds are kept, they are of one size, and a model with them can be saved."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from jsonargparse import ArgumentParser

from captioner.checkpoint import describe, load_model, rebuild, save_model
from captioner.models import AdditiveAttention, CaptionModel, GridEncoder, ShowAttendTell
from captioner.models.encoders import Encoder, JointEncoder, RegionEncoder
from captioner.types import Kind

GRID, DETECTOR = "timm/test_efficientnet", "fasterrcnn_mobilenet_v3_large_320_fpn"


def build(feature_dim=24) -> JointEncoder:
    torch.manual_seed(0)
    return JointEncoder([GridEncoder(GRID, "none"), RegionEncoder(DETECTOR, "none")], feature_dim)


@pytest.fixture(scope="module")
def encoder() -> JointEncoder:
    """Do not change it."""
    return build()


@pytest.fixture(scope="module")
def pixels() -> torch.Tensor:
    small = torch.randint(256, (2, 3, 6, 6), generator=torch.Generator().manual_seed(0)).float()
    return torch.nn.functional.interpolate(small, (64, 64), mode="bilinear").to(torch.uint8)


def test_parts_keep_their_kind_and_order(encoder, pixels):
    memory = encoder(pixels)
    grid, regions = (eyes(pixels) for eyes in encoder.encoders)
    assert memory.kinds == (Kind.GRID, Kind.REGIONS)
    assert memory.grid is None and memory.segments[0].grid == grid.grid == (2, 2)
    assert torch.equal(memory.segments[1].boxes, regions.segments[0].boxes)
    assert memory.features.shape == (2, 4 + regions.features.shape[1], 24)
    assert torch.equal(memory.mask, torch.cat([grid.mask, regions.mask], dim=1))
    assert sum(segment.length for segment in memory.segments) == memory.features.shape[1]


def test_each_is_projected_and_marked_by_its_own(encoder, pixels):
    memory = encoder(pixels)
    start = 0
    for eyes, linear, mark in zip(encoder.encoders, encoder.projections, encoder.marks, strict=True):
        features = eyes(pixels).features
        end = start + features.shape[1]
        expected = features @ linear.weight.T + linear.bias + mark
        torch.testing.assert_close(memory.features[:, start:end], expected, atol=1e-4, rtol=1e-4)
        start = end
    assert not torch.equal(encoder.marks[0], encoder.marks[1])


def test_only_what_joins_them_is_trained(encoder, pixels):
    assert not encoder.frozen
    trained = {name.partition(".")[0] for name, weight in encoder.named_parameters() if weight.requires_grad}
    assert trained == {"projections", "marks"}
    joint = build()
    joint.train()(pixels).features.square().sum().backward()
    assert all(weight.grad is not None and weight.grad.any() for weight in joint.parameters() if weight.requires_grad)


def test_one_encoder_and_none(encoder, pixels):
    alone = JointEncoder([encoder.encoders[0]], 8)(pixels)
    assert alone.grid == (2, 2) and alone.features.shape == (2, 4, 8)
    with pytest.raises(ValueError, match="at least one encoder"):
        JointEncoder([], 8)


@pytest.fixture(scope="module")
def joint_bundle(bundle):
    """A model with two small networks; a detector would take seconds to write."""
    encoder = JointEncoder([GridEncoder(GRID, "none"), GridEncoder("timm/test_resnet", "none")], 24)
    decoder = ShowAttendTell(24, bundle.tokenizer.vocab_size, lambda d, h: AdditiveAttention(d, h, 8), 16, 16)
    return replace(bundle, model=CaptionModel(encoder, decoder).eval())


def test_it_survives_a_file(joint_bundle, pixels, tmp_path):
    save_model(joint_bundle, tmp_path / "m.safetensors", "float32")
    loaded = load_model(tmp_path / "m.safetensors")
    assert describe(loaded) == describe(joint_bundle)
    expected, memory = joint_bundle.model.encoder(pixels), loaded.model.encoder(pixels)
    torch.testing.assert_close(memory.features, expected.features, atol=1e-4, rtol=1e-4)
    assert [part.name for part in loaded.model.encoder.encoders] == [GRID, "timm/test_resnet"]


def test_weights_in_a_file_are_not_looked_for_elsewhere(joint_bundle):
    """Their source is kept by name, at any depth, and is not asked for again."""
    description = describe(joint_bundle)
    parts = description["encoder"]["args"]["encoders"]
    parts[0]["args"]["weights"], parts[1]["args"]["weights"] = "package", "/gone/weights.pth"
    loaded = rebuild(description, joint_bundle.model.state_dict())
    assert [part.weights for part in loaded.model.encoder.encoders] == ["package", "/gone/weights.pth"]
    for name, tensor in joint_bundle.model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], tensor)


def test_a_config_lists_them():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Encoder, "encoder")
    config = {
        "class_path": "captioner.models.encoders.JointEncoder",
        "init_args": {
            "feature_dim": 16,
            "encoders": [
                {"class_path": "captioner.models.encoders.GridEncoder", "init_args": {"name": GRID, "weights": "none"}},
                {
                    "class_path": "captioner.models.encoders.RegionEncoder",
                    "init_args": {"name": DETECTOR, "weights": "none"},
                },
            ],
        },
    }
    built = parser.instantiate_classes(parser.parse_object({"encoder": config})).encoder
    assert isinstance(built, JointEncoder) and built.feature_dim == 16
    assert [type(part) for part in built.encoders] == [GridEncoder, RegionEncoder]
    config["init_args"]["encoders"][1]["init_args"]["num_region"] = 3
    with pytest.raises(Exception, match="num_region"):
        parser.parse_object({"encoder": config})
