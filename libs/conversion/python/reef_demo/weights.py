"""Reads a PyTorch checkpoint without PyTorch: a pickle that may build dictionaries and tensors and nothing else."""

import pickle
from collections import OrderedDict
from typing import Any, BinaryIO, Dict, List, NamedTuple, Tuple

import numpy as np

_MAGIC = 0x1950A86A20F9469CFC6C
_TYPES = {"FloatStorage": np.dtype("<f4"), "LongStorage": np.dtype("<i8")}


class _Tensor(NamedTuple):
    storage: Tuple[str, np.dtype, int]
    offset: int
    size: Tuple[int, ...]
    stride: Tuple[int, ...]


class _Restricted(pickle.Unpickler):
    """A pickle can call whatever it names; so it may name four things."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda storage, offset, size, stride, _requires_grad, _hooks: _Tensor(storage, offset, tuple(size), tuple(stride))
        if module == "torch" and name in _TYPES:
            return _TYPES[name]
        raise pickle.UnpicklingError(f"the checkpoint names {module}.{name}, which is not allowed")

    def persistent_load(self, pid: Tuple) -> Tuple[str, np.dtype, int]:
        _kind, dtype, key, _location, count = pid[:5]
        return (key, dtype, count)


def read_checkpoint(file: BinaryIO) -> Dict[str, np.ndarray]:
    """A legacy `.pth` (torch.save before 1.6): four pickles, then for each storage its length and raw values."""

    def load() -> Any:
        return _Restricted(file).load()

    if load() != _MAGIC:
        raise pickle.UnpicklingError("not a legacy PyTorch checkpoint")
    load()  # protocol version
    load()  # sizes of the writer's types
    tensors: Dict[str, _Tensor] = load()
    keys: List[str] = load()
    types = {tensor.storage[0]: tensor.storage[1] for tensor in tensors.values()}
    storages = {}
    for key in keys:
        count = int.from_bytes(file.read(8), "little")
        storages[key] = np.frombuffer(file.read(count * types[key].itemsize), types[key])
    return {name: _view(tensor, storages[tensor.storage[0]]) for name, tensor in tensors.items()}


def _view(tensor: _Tensor, storage: np.ndarray) -> np.ndarray:
    # The strides count: tensors in this file are not stored in the order of their axes.
    last = tensor.offset + sum((size - 1) * stride for size, stride in zip(tensor.size, tensor.stride))
    if min(tensor.size, default=1) < 1 or tensor.offset < 0 or min(tensor.stride, default=0) < 0 or last >= len(storage):
        raise pickle.UnpicklingError("a tensor reaches outside of its storage")
    return np.lib.stride_tricks.as_strided(storage[tensor.offset :], tensor.size, [stride * storage.itemsize for stride in tensor.stride]).copy()
