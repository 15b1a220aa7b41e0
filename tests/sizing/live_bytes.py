"""Bytes that tensors occupy, counted by watching every operation: the measure that predictions are held against."""

import weakref
from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch
    """Adds up the storages that operations make, for as long as each lives."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch
        self.live = self.peak = 0
        self._known: set[int] = set()

    def ignore(self, tensors: Collection[Tensor]) -> None:
        for tensor in tensors:
            self._known.add(tensor.untyped_storage()._cdata)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._add(leaf.untyped_storage())
        return result

    def _add(self, storage: Any) -> None:
        key, nbytes = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self.live += nbytes
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._remove, key, nbytes)

    def _remove(self, key: int, nbytes: int) -> None:
        self._known.discard(key)
        self.live -= nbytes


def peak_of(function: Callable[[], object], ignoring: Collection[Tensor]) -> int:
    """Most bytes that the tensors which `function` makes occupy at a time, without storages of `ignoring`."""
    with _Watch() as watch:
        watch.ignore(ignoring)
        function()
    return int(watch.peak)


def saved_by(function: Callable[[], Tensor], ignoring: Collection[Tensor]) -> int:
    """Bytes that autograd keeps for the backward pass of what `function` gives, without storages of `ignoring`."""
    known = {tensor.untyped_storage().data_ptr() for tensor in ignoring}
    kept: dict[int, int] = {}
    alive: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = function()
    assert result.requires_grad
    return sum(kept.values())
