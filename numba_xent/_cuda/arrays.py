"""Arrays of Numba, CuPy, PyTorch, JAX and others as :class:`DeviceArray`, without a copy.

DLPack is asked first: it knows bfloat16, which ``__cuda_array_interface__`` cannot say and PyTorch
calls float16 there. New arrays are Numba's, in memory that is allocated and freed in the order of
their stream, so that neither waits for the GPU.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
from cuda.bindings.driver import CUdeviceptr
from cuda.core.utils import StridedMemoryView
from numba import cuda
from numba.cuda import MemoryPointer
from numba.cuda.cudadrv.devicearray import DeviceNDArray

from .._arrays import dtype_name
from .._device import VIEWERS, DeviceArray, Layout, contiguous_strides, layout_of
from . import driver
from .elementwise import CODES
from .streams import LEGACY, as_handle, chosen, own_stream

ALIGNMENT = 256
"""Of memory that is cut into pieces, as the driver aligns memory."""


def _is_readable(dtype: np.dtype[Any]) -> bool:
    name = dtype_name(dtype)
    return dtype.isnative and (name in CODES or name in ("complex64", "complex128"))


def _alignment(layout: Layout) -> int:
    """What addresses must be multiples of; 0 if kernels cannot read such an array at all."""
    alignment = layout.dtype.alignment
    even = all(
        s % alignment == 0 for n, s in zip(layout.shape, layout.strides, strict=True) if n > 1
    )
    return alignment if even and _is_readable(layout.dtype) else 0


@functools.lru_cache(4096)
def _known(
    shape: tuple[int, ...], strides: tuple[int, ...], dtype: np.dtype[Any]
) -> tuple[Layout, int]:
    """The layout of arrays, and what their addresses must be multiples of."""
    layout = layout_of(shape, strides, dtype)
    return layout, _alignment(layout)


def _refused(found: DeviceArray, name: str) -> Exception:
    """What to say of an array that kernels cannot read."""
    if _is_readable(found.dtype):
        return ValueError(f"{name} is a CUDA array whose elements are not aligned")
    return TypeError(f"{name} is a CUDA array of dtype {found.dtype}, which is not supported")


def _of_numba(array: Any, name: str) -> DeviceArray:
    layout, alignment = _known(array.shape, array.strides, array.dtype)
    stream, address = array.stream, array.device_ctypes_pointer.value or 0
    found = DeviceArray(
        array,
        address,
        layout.shape,
        layout.strides,
        layout.dtype,
        array.gpu_data.context.device.id if driver.several_devices() else 0,
        0 if stream == 0 else as_handle(stream),
        False,
        layout,
    )
    if alignment and address % alignment == 0:
        return found
    raise _refused(found, name)


VIEWERS[DeviceNDArray] = _of_numba


def view(array: Any, name: str) -> DeviceArray:
    """What is known of a CUDA array.

    Raises
    ------
    TypeError
        If it is not one, or has a dtype that kernels do not read.
    ValueError
        If its elements are not aligned.
    """
    if isinstance(array, DeviceNDArray):
        return _of_numba(array, name)
    found = _of_any(array, name)
    alignment = _alignment(found.layout)
    if alignment and found.address % alignment == 0:
        return found
    raise _refused(found, name)


def _of_any(array: Any, name: str) -> DeviceArray:
    place = getattr(array, "__dlpack_device__", None)
    entered = False
    try:
        if place is not None and driver.several_devices():
            entered = driver.enter(int(place()[1]))  # PyTorch wants to be asked there
        stream = own_stream(array)
        wanted = chosen() or stream or LEGACY
        # The producer is made to wait for, unless the kernels run where it runs itself.
        known = StridedMemoryView.from_any_interface(
            array, stream_ptr=-1 if wanted == stream else wanted
        )
        dtype = np.dtype(known.dtype)
    except Exception as error:
        raise TypeError(
            f"{name} cannot be used as a CUDA array: {type(array).__name__} says {error!r}"
        ) from error
    finally:
        if entered:
            driver.leave()
    shape = tuple(known.shape)
    strides = known.strides
    return DeviceArray(
        array,
        int(known.ptr),
        shape,
        contiguous_strides(shape, dtype.itemsize)
        if strides is None
        else tuple([int(s) * dtype.itemsize for s in strides]),
        dtype,
        int(known.device_id),
        wanted,
        bool(known.readonly),
    )


# ---- new arrays -----------------------------------------------------------------------------


@functools.lru_cache(4096)
def strides_like(
    shape: tuple[int, ...], strides: tuple[int, ...], itemsize: int
) -> tuple[int, ...]:
    """The strides of an array without gaps, its axes in the order of another's, as in NumPy."""
    found = [0] * len(shape)
    step = itemsize
    for axis in sorted(range(len(shape)), key=lambda i: (abs(strides[i]), -i)):
        found[axis] = step
        step *= shape[axis]
    return tuple(found)


def aligned(size: int) -> int:
    """The next multiple of ``ALIGNMENT``."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def temporary(
    shape: tuple[int, ...], dtype: np.dtype[Any], number: int, handle: int
) -> DeviceArray:
    """Contiguous memory for as long as the array is kept, and until the stream is done with it."""
    size = math.prod(shape) * dtype.itemsize
    buffer = driver.allocate(size, number, handle)
    strides = contiguous_strides(shape, dtype.itemsize)
    return DeviceArray(buffer, int(buffer.handle), shape, strides, dtype, number, handle)


@functools.lru_cache(64)
def _external_stream(handle: int) -> Any:
    return 0 if handle == LEGACY else cuda.external_stream(handle)


def _fields(instance: Any, *others: str) -> dict[str, Any]:
    return {name: value for name, value in vars(instance).items() if name not in others}


@functools.lru_cache(4096)
def _likeness(
    shape: tuple[int, ...], strides: tuple[int, ...], dtype: np.dtype[Any], number: int, handle: int
) -> tuple[dict[str, Any], dict[str, Any], int]:
    """What Numba arrays that differ in their place alone have in common, and their size.

    That is, their own fields, and those of the pointer to their memory.
    """
    size = math.prod(shape) * dtype.itemsize
    pointer = MemoryPointer(driver.numba_context(number), CUdeviceptr(0), size)
    array = DeviceNDArray(shape, strides, dtype, _external_stream(handle), pointer)
    return _fields(array, "gpu_data"), _fields(pointer, "device_pointer", "handle", "_owner"), size


def new(
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    dtype: np.dtype[Any],
    number: int,
    handle: int,
    more: int = 0,
) -> tuple[Any, int]:
    """A new Numba device array without gaps, in memory of a stream's pool, and its address.

    With `more` bytes behind it, from the next multiple of ``ALIGNMENT`` on.
    """
    fields, fields_of_pointer, size = _likeness(shape, strides, dtype, number, handle)
    buffer = driver.allocate(aligned(size) + more if more else size, number, handle)
    address = buffer.handle
    # As `copy.copy` does it: making them takes Numba longer than the launch of a kernel.
    array = DeviceNDArray.__new__(DeviceNDArray)
    array.__dict__ = fields.copy()
    array.gpu_data = pointer = MemoryPointer.__new__(MemoryPointer)
    pointer.__dict__ = fields_of_pointer.copy()
    pointer.device_pointer = pointer.handle = CUdeviceptr(address)
    pointer._owner = buffer
    return array, address


def empty(
    shape: tuple[int, ...], strides: tuple[int, ...], dtype: np.dtype[Any], number: int, handle: int
) -> DeviceArray:
    """The same with what is known of it."""
    array, address = new(shape, strides, dtype, number, handle)
    return DeviceArray(array, address, shape, strides, dtype, number, handle)


def with_last_axis(array: Any) -> Any:
    """The same Numba device array with one more axis, of length 1."""
    strides = (*array.strides, array.dtype.itemsize)
    return DeviceNDArray((*array.shape, 1), strides, array.dtype, array.stream, array.gpu_data)
