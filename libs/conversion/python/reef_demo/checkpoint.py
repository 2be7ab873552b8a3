"""Reads a legacy PyTorch checkpoint without PyTorch, as plain NumPy arrays.

The format is five pickles (magic number, protocol, sizes, the state with references to storages, the storages' keys) and then the
storages: 8 bytes of element count, then the elements. Pickles can run code; this one may only name what a state dict is made of.
"""

import collections
import io
import pickle
import struct
from dataclasses import dataclass
from typing import Dict, Tuple

import numpy as np

MAGIC = 0x1950A86A20F9469CFC6C
_DTYPES = {"FloatStorage": np.dtype("<f4"), "LongStorage": np.dtype("<i8")}


@dataclass(frozen=True)
class _Tensor:
    storage: str
    offset: int
    size: Tuple[int, ...]
    #: In elements. Converted checkpoints keep the order TensorFlow had: shape alone would scramble them.
    stride: Tuple[int, ...]


def _rebuild(storage: str, offset: int, size: Tuple[int, ...], stride: Tuple[int, ...], *_: object) -> _Tensor:
    return _Tensor(storage, offset, tuple(size), tuple(stride))


class _Reader(pickle.Unpickler):
    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.dtypes: Dict[str, np.dtype] = {}

    def find_class(self, module: str, name: str):
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild
        if module == "torch" and name in _DTYPES:
            return name
        raise pickle.UnpicklingError(f"{module}.{name} has no place in a checkpoint")

    def persistent_load(self, reference: tuple) -> str:
        kind, storage, key = reference[:3]
        if kind != "storage":
            raise pickle.UnpicklingError(f"a checkpoint refers to storages, not to {kind!r}")
        self.dtypes[key] = _DTYPES[storage]
        return key


def read_checkpoint(content: bytes) -> Dict[str, np.ndarray]:
    file = io.BytesIO(content)
    if _Reader(file).load() != MAGIC:
        raise ValueError("not a legacy PyTorch checkpoint")
    _Reader(file).load()
    if not _Reader(file).load()["little_endian"]:
        raise ValueError("the checkpoint is big-endian")
    reader = _Reader(file)
    state = reader.load()
    storages = {}
    for key in _Reader(file).load():
        (count,) = struct.unpack("<q", file.read(8))
        dtype = reader.dtypes[key]
        storages[key] = np.frombuffer(file.read(count * dtype.itemsize), dtype, count)
    return {name: _array(tensor, storages[tensor.storage]) for name, tensor in state.items()}


def _array(tensor: _Tensor, storage: np.ndarray) -> np.ndarray:
    last = tensor.offset + sum((size - 1) * stride for size, stride in zip(tensor.size, tensor.stride))
    if min(tensor.size, default=1) < 1 or min(tensor.stride, default=0) < 0 or tensor.offset < 0 or last >= len(storage):
        raise ValueError("a tensor reaches beyond its storage")
    view = np.lib.stride_tricks.as_strided(storage[tensor.offset :], tensor.size, [stride * storage.itemsize for stride in tensor.stride])
    return np.ascontiguousarray(view)
