"""Tensors without values in place of a GPU's: whatever would have the host wait for them is an error."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten
ASKS_FOR_VALUES = {aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten.is_nonzero, aten._unique2}
INDEXES = {aten.index, aten.index_put, aten.index_put_}
COPIES = {aten._to_copy, aten.copy_}


class NoWaiting(TorchDispatchMode):
    """On the meta device: values that are asked for, copies that are waited for, and indices from the host.

    `torch.cuda.set_sync_debug_mode("error")` finds the same on a GPU.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        kind = func.overloadpacket
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        on_device = any(tensor.is_meta for tensor in tensors)
        if kind in ASKS_FOR_VALUES and on_device:
            raise AssertionError(f"{func} asks the device for values")
        if kind in INDEXES and on_device and any(not tensor.is_meta and tensor.dim() for tensor in tensors):
            raise AssertionError(f"{func} takes its index from the host")
        result = func(*args, **kwargs)
        if kind in COPIES:
            places = {tensor.device.type for tensor in (*tensors, result) if tensor.dim()}
            non_blocking = kwargs.get("non_blocking", len(args) > 2 and args[2])
            if len(places) > 1 and not non_blocking:
                raise AssertionError(f"{func} waits for a copy")
        return result
