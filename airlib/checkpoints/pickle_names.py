"""What names that many weight files use build: an allow list.

    containers               -> dictionaries and sets
    torch tensors            -> a checked range of a storage
    numpy arrays and scalars -> numbers only, no objects

`DataMachine.calls` is the list; the readers of a format extend it. Arguments are whatever the file
says: none is compared, printed or hashed before its type is known, because a small pickle can build
a structure that takes forever to walk through.
"""

import math
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from torch import Tensor

from airlib.checkpoints.pickle_machine import Blob, Global, Machine, Source, key

STORAGES = {
    "torch.FloatStorage": torch.float32,
    "torch.DoubleStorage": torch.float64,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
}
MOST_DIMENSIONS = 8
LARGEST_COUNT = 2**48
NUMBERS = {f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8)} | {"f2", "f4", "f8", "b1"}


def _ordered_dict(machine: Machine, pairs: Collection[tuple] = ()) -> dict:
    """A dictionary: filled by later opcodes, or with its items where Python 2 wrote it."""
    machine.budget.spend(len(pairs))
    return {key(name): value for name, value in pairs}


def _set(machine: Machine, items: list) -> set:
    machine.budget.spend(len(items))
    return {key(item) for item in items}


def _latin1(machine: Machine, text: str, encoding: str) -> bytes:
    """Bytes as protocol 2 writes them."""
    if encoding != "latin1":
        raise UnpicklingError("encodes text as something else than bytes")
    machine.budget.spend(len(text))
    return text.encode("latin-1")


def _no_bytes(machine: Machine) -> bytes:
    """How protocol 2 writes an empty byte string."""
    return b""


@contextmanager
def opened(machine: Machine, value: bytes | Blob) -> Iterator[Source]:
    """Context that yields a byte string of a program as a `Source`, charged to its budget.

    Raises TypeError if `value` is no byte string, and UnpicklingError if the budget does not have
    that many bytes.
    """
    if type(value) is bytes:
        machine.budget.spend(len(value))
        yield Source(BytesIO(value), len(value))
    elif type(value) is Blob:
        machine.budget.spend(value.size)
        with value.opened() as source:
            yield source
    else:
        raise TypeError("the numbers of a tensor are not bytes")


def _data_of(machine: Machine, value: bytes | Blob) -> bytes:
    with opened(machine, value) as source:
        return source.read(source.left)


# --- torch ---------------------------------------------------------------------------------------


def _tensor(
    machine: Machine, storage: Tensor, offset: int, size: tuple, stride: tuple, *_unused: object
) -> Tensor:
    """The range of `storage` that torch's `_rebuild_tensor_v2` would take."""
    _check_counts((offset,))
    _check_counts(size)
    _check_counts(stride)
    if len(size) != len(stride):
        raise ValueError(f"a tensor of {len(size)} dimensions has {len(stride)} strides")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    count = math.prod(size)
    if count > len(storage) or (count and last >= len(storage)):
        raise ValueError(f"a tensor of {count} numbers reaches beyond its storage")
    machine.budget.spend(count * storage.itemsize)  # whoever reads the file may copy it
    return storage.as_strided(size, stride, offset)


def _check_counts(values: tuple) -> None:
    """Refuse what is no shape, before anybody calculates with it."""
    if type(values) is not tuple or len(values) > MOST_DIMENSIONS:
        raise ValueError(f"a shape is not a tuple of at most {MOST_DIMENSIONS} counts")
    if not all(type(value) is int and 0 <= value < LARGEST_COUNT for value in values):
        raise ValueError("the shape of a tensor is not made of counts")


def _parameter(machine: Machine, data: Tensor, *_unused: object) -> Tensor:
    if not isinstance(data, Tensor):
        raise TypeError("a parameter that is not a tensor")
    return data


# --- numpy ---------------------------------------------------------------------------------------


@dataclass(eq=False)
class _Dtype:
    """A numpy dtype of numbers, such as "f4" (kind and bytes)."""

    code: str
    byte_order: str = "="

    def array(self, data: bytes) -> np.ndarray:
        return np.frombuffer(data, self.byte_order + self.code)


def _dtype(machine: Machine, code: str, *_unused: object) -> _Dtype:
    if type(code) is not str or code not in NUMBERS:
        raise UnpicklingError("holds numpy data that are not numbers")
    return _Dtype(code)


def _scalar(machine: Machine, dtype: _Dtype, value: bytes) -> int | float | bool:
    return dtype.array(_data_of(machine, value)).item()


def _array(machine: Machine, kind: Global, *_unused: object) -> np.ndarray:
    """An array that gets its shape and numbers later, by its state."""
    return np.empty(0, np.uint8)


class DataMachine(Machine):
    """Runs a pickle program that builds containers, torch tensors, and numpy arrays of numbers.

    Readers of a format add the names that its programs need to `calls`.
    """

    calls = {
        "collections.OrderedDict": _ordered_dict,
        "builtins.set": _set,
        "__builtin__.set": _set,
        "__builtin__.bytes": _no_bytes,
        "_codecs.encode": _latin1,
        "torch._utils._rebuild_tensor_v2": _tensor,
        "torch._utils._rebuild_tensor": _tensor,  # before torch 0.4
        "torch._utils._rebuild_parameter": _parameter,
        "torch.nn.parameter.Parameter": _parameter,  # before torch 0.4
        "numpy.dtype": _dtype,
        "numpy.ndarray": None,
        "numpy.core.multiarray.scalar": _scalar,
        "numpy._core.multiarray.scalar": _scalar,
        "numpy.core.multiarray._reconstruct": _array,
        "numpy._core.multiarray._reconstruct": _array,
    }

    def build(self, target: object, state: Any) -> None:
        if isinstance(target, dict):
            pass  # attributes of a dictionary, such as the versions in a state dict
        elif isinstance(target, Tensor):  # of a parameter before torch 0.4
            _trained, _volatile, _hooks = state
        elif isinstance(target, _Dtype):
            _version, byte_order, *fields = state
            if byte_order not in ("<", ">", "|", "=") or any(f is not None for f in fields[:3]):
                raise UnpicklingError("holds numpy data of a type with fields")
            target.byte_order = byte_order
        elif isinstance(target, np.ndarray):
            _version, shape, dtype, fortran, value = state
            _check_counts(shape)
            data = _data_of(self, value)
            numbers = dtype.array(data)
            if numbers.size != math.prod(shape):
                raise EOFError(f"a numpy array of another shape has {numbers.size} numbers")
            content = (1, tuple(shape), numbers.dtype, bool(fortran), data)
            target.__setstate__(content)  # type: ignore[arg-type]  # numpy asks for its own bool
        else:
            super().build(target, state)
