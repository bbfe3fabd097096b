"""Arrays of other libraries, as they look from outside: one protocol each."""

from __future__ import annotations

import ctypes
import sys
from types import SimpleNamespace
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
        ("byte_offset", ctypes.c_uint64),
    ]  # fmt: skip


class _Managed(ctypes.Structure):
    """What a capsule of before DLPack 1.0 holds."""

    _fields_ = [("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", ctypes.c_void_p)]


class _Versioned(ctypes.Structure):
    """What a capsule of DLPack 1.0 holds."""

    _fields_ = [
        ("major", ctypes.c_uint32), ("minor", ctypes.c_uint32), ("context", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p), ("flags", ctypes.c_uint64), ("tensor", _Tensor),
    ]  # fmt: skip


_CODES = {"i": 0, "u": 1, "f": 2, "c": 5, "b": 6}
_BFLOAT = 4
_CUDA = 2
_READ_ONLY = 1


class Exchanged:
    """What has ``__dlpack__``, and a ``__cuda_array_interface__`` that nobody may ask.

    It answers with a capsule of the version that it is asked for, if it knows that.
    """

    def __init__(self, array: np.ndarray, version: int = 0, readonly: bool = False) -> None:
        raw = array.view(np.uint16) if array.dtype.itemsize == 2 else array
        self.held = cuda.to_device(raw)
        self.number = cuda.current_context().device.id
        self.dtype, self.shape = array.dtype, array.shape
        self.asked: list[Any] = []
        self.version, self.readonly = version, readonly
        code = _BFLOAT if array.dtype.name == "bfloat16" else _CODES[array.dtype.kind]
        self.sizes = (ctypes.c_int64 * array.ndim)(*array.shape)
        self.tensor = _Tensor(
            self.held.device_ctypes_pointer.value, _CUDA, self.number, array.ndim, code,
            8 * array.dtype.itemsize, 1, ctypes.addressof(self.sizes), None, 0,
        )  # fmt: skip

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """It cannot say bfloat16: PyTorch calls it something else, JAX raises."""
        raise RuntimeError("__cuda_array_interface__ was asked, though there is __dlpack__")

    def __dlpack_device__(self) -> tuple[int, int]:
        """A GPU."""
        return _CUDA, self.number

    def __dlpack__(
        self,
        *,
        stream: Any = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        """A capsule without a deleter: this object lives longer."""
        self.asked.append(stream)
        if self.version and max_version is not None and max_version[0] >= 1:
            flags = _READ_ONLY * self.readonly
            self.capsule: Any = _Versioned(1, 0, None, None, flags, self.tensor)
            name = b"dltensor_versioned"
        else:
            if self.readonly:
                raise BufferError("a read-only array needs DLPack 1.0")
            self.capsule, name = _Managed(self.tensor, None, None), b"dltensor"
        new = ctypes.pythonapi.PyCapsule_New
        new.restype = ctypes.py_object
        new.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
        return new(ctypes.addressof(self.capsule), name, None)


class OldExchanged(Exchanged):
    """``__dlpack__`` of before the array API of 2023: it knows no other keyword."""

    def __dlpack__(self, *, stream: Any = None) -> Any:  # type: ignore[override]
        """A capsule."""
        return super().__dlpack__(stream=stream)


class Tensor(Exchanged):
    """What PyTorch 2.13 checks before it hands a CUDA tensor out, in its order."""

    def __init__(self, array: np.ndarray, requires_grad: bool = False) -> None:
        super().__init__(array, version=1)
        self.requires_grad, self.device = requires_grad, self.number

    def __dlpack__(self, *, stream: Any = -1, **options: Any) -> Any:  # type: ignore[override]
        """A capsule, which waits for nothing by default."""
        if self.requires_grad:
            raise BufferError("Can't export tensors that require gradient, use tensor.detach()")
        if cuda.current_context().device.id != self.number:
            raise BufferError("Can't export tensors on a different CUDA device index.")
        if stream is not None and type(stream) is not int:
            raise TypeError("stream must be ``int`` or ``none``")
        if stream == 2:
            raise BufferError("per-thread default stream is not supported.")
        if stream == 0:
            raise AssertionError("unsupported stream on CUDA: 0.")
        return super().__dlpack__(stream=stream, **options)


Tensor.__module__ = "torch"


def pretend_torch(stream: int) -> None:
    """Have PyTorch work on a stream, as far as anybody can see."""
    current = SimpleNamespace(cuda_stream=stream)
    sys.modules["torch"] = SimpleNamespace(  # type: ignore[assignment]
        cuda=SimpleNamespace(current_stream=lambda device: current)
    )
