"""Counts the bytes of tensors that torch allocates, on any device, so that planned memory can be compared with it."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


class Allocations(TorchDispatchMode):
    """Counts, inside the context, the bytes of all storages that exist: those of some tensors, and of every result.

    Memory that an operation frees before it returns, such as the buffers of a kernel, is not seen.
    """

    def __init__(self, tensors: Iterable[torch.Tensor] = ()):
        super().__init__()
        self.total = 0
        self.peak = 0
        self._storages: dict[int, weakref.ref[Any]] = {}
        for tensor in tensors:
            self.add(tensor)

    def add(self, tensor: torch.Tensor) -> None:
        """Count the storage of a tensor, unless it is counted already."""
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._storages:
            return

        def forget(_: Any) -> None:
            if self._storages.pop(key, None) is not None:
                self.total -= size

        self._storages[key] = weakref.ref(storage, forget)
        self.total += size
        self.peak = max(self.peak, self.total)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_iter(result):
            if isinstance(value, torch.Tensor) and value.device.type != "meta":
                self.add(value)
        return result
