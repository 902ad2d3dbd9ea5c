"""Grids of any CNN: their true size, what is trained of them, and where their weights come from."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from torch import nn

from captioner.models import GridEncoder

SMALL = "timm/test_resnet"


def build(name=SMALL, weights="none", **options) -> GridEncoder:
    torch.manual_seed(0)
    return GridEncoder(name, weights, **options)


def random_pixels(height, width=None, num_images=1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (num_images, 3, height, width or height), generator=generator).to(torch.uint8)


def state_of(encoder) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in encoder.state_dict().items()}


def train_once(encoder) -> None:
    """A step that would move whatever it can."""
    encoder.train()
    with torch.no_grad():
        for parameter in encoder.parameters():  # blocks begin as identities: with some noise they learn at once
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    head = nn.Linear(encoder.feature_dim, 1)
    optimizer = torch.optim.SGD([*encoder.parameters(), *head.parameters()], lr=1.0)
    head(encoder(random_pixels(64, num_images=2)).features).square().mean().backward()
    optimizer.step()


@pytest.mark.parametrize("size", [(64, 64), (96, 160), (100, 130)])
@pytest.mark.parametrize(
    ("name", "options", "stride", "feature_dim"),
    [
        ("mobilenet_v3_small", {}, 32, 576),
        ("torchvision/resnet18", {"layer": "layer1"}, 4, 64),
        (SMALL, {}, 32, 96),
        (SMALL, {"output_stride": 32}, 32, 96),
        (SMALL, {"output_stride": 16}, 16, 96),
        (SMALL, {"output_stride": 8}, 8, 96),
        (SMALL, {"layer": "layer3", "output_stride": 16}, 16, 192),
        (SMALL, {"layer": "layer1.0"}, 4, 32),
        ("test_convnext", {}, 32, 64),
        ("test_convnext", {"output_stride": 16}, 16, 64),
        ("timm/mobilenetv3_small_050", {}, 32, 288),
        ("tf_efficientnet_lite0", {"layer": "blocks.4"}, 16, 112),
    ],
)
def test_the_grid_is_the_true_one(name, options, stride, feature_dim, size):
    encoder = cached(name, **options)
    memory = encoder(random_pixels(*size, num_images=2))
    by_rounding = [tuple(-(-side // stride) for side in size), tuple(side // stride for side in size)]
    assert memory.grid in by_rounding
    height, width = memory.grid
    assert encoder.feature_dim == feature_dim
    assert memory.features.shape == (2, height * width, feature_dim)
    assert memory.mask.all()
    assert memory.mask.shape == (2, height * width)
    assert memory.keys is None


CACHE: dict[str, GridEncoder] = {}


def cached(name, **options) -> GridEncoder:
    key = f"{name} {options}"
    if key not in CACHE:
        CACHE[key] = build(name, **options)
    return CACHE[key]


def test_dilation_is_torchvision_s_too():
    encoder = build("resnet50", output_stride=16)
    assert encoder(random_pixels(64)).grid == (4, 4)


def test_layers_inside_a_sequence_have_numbers():
    """As "features.35" of VGG-19, the paper's."""
    encoder = build("squeezenet1_1", layer="features.7")
    assert encoder(random_pixels(64)).grid == (7, 7)
    assert encoder.feature_dim == 256
    assert not any("classifier" in name for name, _ in encoder.named_parameters())


def test_the_grid_is_the_layer_s_output_row_by_row():
    encoder = build(layer="layer2")
    torch.manual_seed(0)
    network = timm.create_model("test_resnet").eval()
    pixels = random_pixels(64, 96)
    kept = []
    network.layer2.register_forward_hook(lambda module, inputs, output: kept.append(output))
    with torch.no_grad():
        network((pixels / 255 - torch.tensor(encoder.mean).view(3, 1, 1)) / torch.tensor(encoder.std).view(3, 1, 1))
    memory = encoder(pixels)
    assert memory.grid == (8, 12)
    for row, column in [(0, 0), (3, 7), (7, 11)]:
        torch.testing.assert_close(
            memory.features[0, row * 12 + column], kept[0][0, :, row, column], atol=1e-4, rtol=1e-4
        )


def test_pixels_are_normalised():
    encoder = build(mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    encoder.network = nn.Identity()
    pixels = random_pixels(2)
    found = encoder(pixels).features[0]  # (4, 3)
    for channel, (mean, std) in enumerate([(0.1, 0.4), (0.2, 0.5), (0.3, 0.6)]):
        expected = [(value / 255 - mean) / std for value in pixels[0, channel].flatten().tolist()]
        assert found[:, channel].tolist() == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_pixels_that_are_normalised_already_are_refused():
    with pytest.raises(ValueError, match="uint8"):
        cached(SMALL)(torch.zeros(1, 3, 64, 64))


def test_each_network_has_its_own_normalisation():
    assert cached("torchvision/resnet18", layer="layer1").mean == pytest.approx((0.485, 0.456, 0.406))
    assert cached("tf_efficientnet_lite0", layer="blocks.4").mean == (0.5, 0.5, 0.5)
    assert build(mean=[0, 0, 0]).mean == (0, 0, 0)


@pytest.mark.parametrize("name", ["timm/mobilenetv3_small_050", "test_convnext", "mobilenet_v3_small"])
def test_every_parameter_serves_the_grid(name):
    """What does not (a head's hidden layers) is cut off: it would be saved, and stop DDP."""
    encoder = cached(name)
    for parameter in encoder.parameters():
        parameter.requires_grad_(True)
    features = encoder(random_pixels(64)).features
    gradients = torch.autograd.grad(features.sum(), list(encoder.parameters()), allow_unused=True)
    encoder.requires_grad_(False)
    assert gradients
    assert all(gradient is not None for gradient in gradients)


@pytest.fixture(params=["mobilenet_v3_small", SMALL, "test_convnext", f"{SMALL} layer3"])
def frozen(request):
    name, _, layer = request.param.partition(" ")
    return build(name, layer=layer or None)


def test_frozen_stays_as_it_was(frozen):
    before = state_of(frozen)
    train_once(frozen)
    assert frozen.frozen
    for name, tensor in frozen.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert all(parameter.grad is None for parameter in frozen.parameters())


def test_frozen_keeps_no_graph_and_is_in_evaluation_mode(frozen):
    frozen.train()
    assert not frozen(random_pixels(64)).features.requires_grad
    assert not any(module.training for module in frozen.network.modules())
    pixels = random_pixels(64, num_images=2)
    torch.testing.assert_close(frozen(pixels).features, frozen.eval()(pixels).features)


def test_images_do_not_touch_each_other(frozen):
    frozen.train()
    pixels = random_pixels(64, num_images=3)
    together = frozen(pixels).features
    alone = torch.cat([frozen(pixels[[image]]).features for image in range(3)])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "stage", "still", "moves"),
    [
        (SMALL, "layer4", ["conv1", "layer3"], ["layer4"]),
        (SMALL, "layer3", ["conv1", "layer2"], ["layer3", "layer4"]),
        (SMALL, "conv1", [], ["conv1", "layer1", "layer4"]),
        ("mobilenet_v3_small", "features.11", ["features.0", "features.10"], ["features.11", "features.12"]),
        ("test_convnext", "stages.3", ["stem", "stages.0", "stages.2"], ["stages.3"]),
        ("test_efficientnet", "blocks.3", ["conv_stem", "blocks.2"], ["blocks.3", "conv_head"]),
    ],
)
def test_fine_tuning_moves_what_comes_after(name, stage, still, moves):
    encoder = build(name, trainable_from=stage)
    assert not encoder.frozen
    before = state_of(encoder)
    train_once(encoder)
    prefix = "network.extractor." if name == "mobilenet_v3_small" else "network.network."
    for key, tensor in encoder.state_dict().items():
        part = key.removeprefix(prefix)
        if "running" in key or "num_batches" in key or any(part.startswith(f"{other}.") for other in still):
            assert torch.equal(tensor, before[key]), key
        elif any(part.startswith(f"{other}.") for other in moves):
            assert not torch.equal(tensor, before[key]), key
    for key, parameter in encoder.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, key


def test_batch_norm_and_frozen_stages_stay_in_evaluation_mode():
    encoder = build(trainable_from="layer4").train()
    network = encoder.network.network
    assert not any(module.training for module in network.layer3.modules())
    for module in network.layer4.modules():
        assert module.training != isinstance(module, nn.BatchNorm2d)
    encoder.eval()
    assert not any(module.training for module in encoder.modules())


@pytest.mark.parametrize(
    ("name", "options"),
    [
        (SMALL, {}),
        (SMALL, {"layer": "layer3"}),
        (SMALL, {"trainable_from": "layer4"}),
        ("mobilenet_v3_small", {}),
        ("mobilenet_v3_small", {"trainable_from": "features.11"}),
    ],
)
def test_a_deep_copy_sees_the_same(name, options):
    """Weight averaging copies models; a copied batch norm must not wake up."""
    encoder = build(name, **options).train()
    pixels = random_pixels(64, num_images=2)
    twin = copy.deepcopy(encoder)
    assert torch.equal(twin(pixels).features, encoder(pixels).features)
    assert torch.equal(twin.train()(pixels).features, encoder(pixels).features)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_it_can_be_built_where_no_graphs_are_kept(context):
    with context():
        encoder = build(trainable_from="layer4")
    train_once(encoder)
    assert encoder.state_dict().keys() == cached(SMALL).state_dict().keys()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnt50", {}, r"no encoder 'resnt50' in torchvision or timm; names alike: .*resnet50"),
        ("torchvision/convnext_atto", {}, r"in torchvision; names alike: convnext_tiny"),
        ("timm/vgg_16", {}, r"in timm; names alike: vgg16"),
        ("xyzzyxyzzy", {}, r"names alike: none"),
        ("keras/resnet50", {}, r"before the slash is torchvision or timm"),
        (SMALL, {"layer": "layer9"}, r"layer 'layer9' is not in this network, which has .*layer4"),
        ("resnet18", {"layer": "layer9"}, r"layer 'layer9' is not in this network, which has .*layer4"),
        ("shufflenet_v2_x0_5", {}, r"name the layer to take the grid from, one of .*conv5"),
        ("resnet18", {"layer": "fc"}, r"\(1, 1000\).*no grid.*name another layer"),
        ("resnet18", {"layer": "avgpool"}, r"\(1, 512, 1, 1\).*no grid"),
        ("swin_t", {"layer": "features.0"}, r"\(1, 24, 40, 96\).*no grid.*take a CNN"),
        ("timm/vit_tiny_patch16_224", {}, r"cannot look at a picture of 160 x 96 pixels"),
        (SMALL, {"trainable_from": "layer9"}, r"trainable_from 'layer9' is not in this network"),
        (SMALL, {"trainable_from": "maxpool"}, r"maxpool.* no parameters that the grid depends on|is not in this"),
        (SMALL, {"layer": "layer2", "trainable_from": "layer3"}, r"trainable_from 'layer3' is not in this network"),
        (SMALL, {"output_stride": 5}, r"output stride of 5"),
        ("resnet18", {"output_stride": 16}, r"'resnet18' cannot have an output stride of 16"),
        ("resnet18", {"output_stride": 4}, r"5 x 3 cells .* no output stride of 4"),
        (SMALL, {"output_stride": 16, "layer": "layer2"}, r"20 x 12 cells .* no output stride of 16"),
        ("mobilenet_v3_small", {"output_stride": 8}, r"5 x 3 cells .* no output stride of 8"),
        ("squeezenet1_1", {"output_stride": 32}, r"9 x 5 cells .* no output stride of 32"),
    ],
)
def test_what_cannot_be_is_refused_with_the_choices(name, options, message):
    with pytest.raises(ValueError, match=message):
        build(name, **options)
