"""Lightning's trainer, with a number format that suits the device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.precision.precision import _PRECISION_INPUT
from pytorch_lightning.accelerators import Accelerator, CUDAAccelerator, MPSAccelerator
from pytorch_lightning.plugins import Precision
from pytorch_lightning.utilities.rank_zero import rank_zero_info, rank_zero_warn

from captioner.devices import EMULATED, has_bf16
from captioner.types.limits import require_factors, require_sizes


class Trainer(pl.Trainer):
    """Lightning's trainer, which also takes "auto" as precision.

    Args:
        accelerator: see Lightning's, as for everything that is not named here.
        precision: the number format; "auto" is "bf16-mixed" on a device that has bfloat16 units, and "32-true"
            elsewhere, where bf16 would be emulated, many times slower. A line says which one it is. If a plugin of
            precision is given, "auto" leaves the choice to it.
    """

    def __init__(
        self,
        *,
        accelerator: str | Accelerator = "auto",
        precision: _PRECISION_INPUT | Literal["auto"] | None = None,
        **kwargs: Any,
    ) -> None:
        _require_possible(kwargs)
        device = _device(accelerator)
        name = "device" if device is None else device.type.upper()
        plugins = kwargs.get("plugins")
        if precision == "auto":
            given = plugins if isinstance(plugins, list) else [plugins]
            if any(isinstance(plugin, Precision) for plugin in given):
                precision = None
            elif device is not None and has_bf16(device):
                precision = "bf16-mixed"
                rank_zero_info(f"precision auto: bf16-mixed, as this {name} has bfloat16 units")
            else:
                precision = "32-true"
                rank_zero_info(f"precision auto: 32-true, as this {name} has no bfloat16 units")
        elif _is_bf16(precision, device) and device is not None and not has_bf16(device):
            rank_zero_warn(f"precision {precision}: {EMULATED.format(device=name)}; `precision: auto` chooses for you")
        super().__init__(accelerator=accelerator, precision=precision, **kwargs)


def _is_bf16(precision: _PRECISION_INPUT | None, device: torch.device | None) -> bool:
    """Whether Lightning computes in bf16: also in place of float16 on a CPU, which has none."""
    on_cpu = device is not None and device.type == "cpu"
    return str(precision).startswith("bf16") or (on_cpu and str(precision) in ("16", "16-mixed"))


def _require_possible(arguments: Mapping[str, Any]) -> None:
    """Refuse numbers that Lightning would divide by, or with which nothing would be trained."""
    given = {name: value for name, value in arguments.items() if value is not None}
    for name in ("accumulate_grad_batches", "check_val_every_n_epoch", "max_epochs"):
        if name in given and (name, given[name]) != ("max_epochs", -1):  # which is without end, to Lightning
            require_sizes(**{name: given[name]})
    for name in ("gradient_clip_val", "limit_train_batches", "limit_val_batches"):
        if name in given:
            require_factors(**{name: given[name]})
    if given.get("limit_train_batches") == 0:
        raise ValueError("limit_train_batches is 0: nothing would be trained")


def _device(accelerator: str | Accelerator) -> torch.device | None:
    """What kind of device Lightning will choose; None if it is one that is not known here."""
    if accelerator in ("auto", "gpu", "cuda") and CUDAAccelerator.is_available():
        return torch.device("cuda")
    if accelerator in ("auto", "gpu", "mps") and MPSAccelerator.is_available():
        return torch.device("mps")
    return torch.device("cpu") if accelerator in ("auto", "cpu") else None
