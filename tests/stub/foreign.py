"""Arrays of other libraries, as they look from outside: one protocol each."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from numba import cuda


class Interface:
    """What has ``__cuda_array_interface__`` alone."""

    def __init__(self, array: np.ndarray, stream: int | None = None, dtype: str = "") -> None:
        raw = array.view(np.uint16) if array.dtype.itemsize == 2 else array
        self.held = cuda.to_device(raw)
        self.shape = array.shape
        self.__cuda_array_interface__ = {
            "shape": array.shape,
            "typestr": dtype or array.dtype.str,
            "data": (self.held.device_ctypes_pointer.value or 0, False),
            "strides": None,
            "version": 3,
            "stream": stream,
        }


class _Tensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p), ("device_type", ctypes.c_int32), ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32), ("code", ctypes.c_uint8), ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16), ("shape", ctypes.c_void_p), ("strides", ctypes.c_void_p),
        ("byte_offset", ctypes.c_uint64), ("context", ctypes.c_void_p), ("deleter", ctypes.c_void_p),
    ]  # fmt: skip


_CODES = {"i": 0, "u": 1, "f": 2}
_BFLOAT = 4
_CUDA = 2


class Exchanged:
    """What has ``__dlpack__``, and a ``__cuda_array_interface__`` that is wrong about bfloat16."""

    def __init__(self, array: np.ndarray) -> None:
        raw = array.view(np.uint16) if array.dtype.itemsize == 2 else array
        self.held = cuda.to_device(raw)
        self.dtype, self.shape = array.dtype, array.shape
        self.asked: list[Any] = []
        code = _BFLOAT if array.dtype.name == "bfloat16" else _CODES[array.dtype.kind]
        self.sizes = (ctypes.c_int64 * array.ndim)(*array.shape)
        self.tensor = _Tensor(
            self.held.device_ctypes_pointer.value, _CUDA, 0, array.ndim, code,
            8 * array.dtype.itemsize, 1, ctypes.addressof(self.sizes), None, 0, None, None,
        )  # fmt: skip

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """As PyTorch has it."""
        return Interface(np.zeros(self.shape, np.float16)).__cuda_array_interface__

    def __dlpack_device__(self) -> tuple[int, int]:
        """A GPU."""
        return _CUDA, 0

    def __dlpack__(self, *, stream: Any = None, **_: Any) -> Any:
        """A capsule without a deleter: this object lives longer."""
        self.asked.append(stream)
        new = ctypes.pythonapi.PyCapsule_New
        new.restype, new.argtypes = (
            ctypes.py_object,
            [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p],
        )
        return new(ctypes.addressof(self.tensor), b"dltensor", None)
