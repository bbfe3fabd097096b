"""Arrays of Numba, CuPy, PyTorch, JAX and others as :class:`DeviceArray`, without a copy.

DLPack is asked first: it knows bfloat16, which ``__cuda_array_interface__`` cannot say and PyTorch
calls float16 there.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from cuda.core.utils import StridedMemoryView
from numba import cuda
from numba.cuda.cudadrv.devicearray import DeviceNDArray

from .._arrays import dtype_name
from .._device import DeviceArray
from .streams import LEGACY, chosen, own_stream

DTYPES = frozenset(
    (
        "float16",
        "bfloat16",
        "float32",
        "float64",
        "int32",
        "int64",
        "int16",
        "int8",
        "uint8",
        "bool",
    )
)


def view(array: Any, name: str) -> DeviceArray:
    """What is known of a CUDA array.

    Raises
    ------
    TypeError
        If it is not one, or has a dtype that kernels do not read.
    """
    found = _of_numba(array) if isinstance(array, DeviceNDArray) else _of_any(array, name)
    if dtype_name(found.dtype) not in DTYPES:
        raise TypeError(f"{name} is a CUDA array of dtype {found.dtype}, which is not supported")
    if found.address % found.dtype.itemsize or any(
        s % found.dtype.itemsize for n, s in zip(found.shape, found.strides, strict=True) if n > 1
    ):
        raise ValueError(f"{name} is a CUDA array whose elements are not aligned")
    return found


def _of_numba(array: Any) -> DeviceArray:
    pointer = array.device_ctypes_pointer.value or 0
    stream = int(getattr(array.stream, "handle", array.stream) or 0) or LEGACY
    device = array.gpu_data.context.device.id if array.size else cuda.get_current_device().id
    return DeviceArray(
        array, int(pointer), array.shape, array.strides, array.dtype, int(device), stream
    )


def _of_any(array: Any, name: str) -> DeviceArray:
    stream = own_stream(array)
    wanted = chosen() or stream
    try:
        # The producer is made to wait for, unless the kernels run where it runs itself.
        known = StridedMemoryView.from_any_interface(
            array, stream_ptr=-1 if wanted == stream is not None else wanted or LEGACY
        )
        dtype = np.dtype(known.dtype)
    except Exception as error:
        raise TypeError(
            f"{name} cannot be used as a CUDA array: {type(array).__name__} says {error!r}"
        ) from error
    shape = tuple(known.shape)
    strides = known.strides
    if strides is None:
        strides = tuple(int(np.prod(shape[i + 1 :], dtype=int)) for i in range(len(shape)))
    return DeviceArray(
        array,
        int(known.ptr),
        shape,
        tuple(int(s) * dtype.itemsize for s in strides),
        dtype,
        int(known.device_id),
        stream or LEGACY,
        bool(known.readonly),
    )


def empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
    """A new Numba device array."""
    return cuda.device_array(shape, dtype)
