"""Array-likes to arrays, by TensorFlow's rules, and what the library knows about dtypes.

NumPy arrays and scalars keep their dtype. Python numbers and nested lists of them become float32,
int32 (int64 if they do not fit) or bool, as in ``tf.convert_to_tensor``.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import math
import operator
import sys
from collections.abc import Iterator
from typing import Any, cast

import numpy as np

from ._device import VIEWERS, Foreign, is_on_gpu
from ._recycled import room

Array = np.ndarray[Any, np.dtype[Any]]

FLOAT_NAMES = ("float16", "bfloat16", "float32", "float64")
"""Names of the dtypes that logits, losses and gradients may have."""

_MOST = np.iinfo(np.intp).max // 8
"""Numbers that can be addressed in any dtype. Only arrays of stride 0 or without any have more."""

_INT32 = np.iinfo(np.int32)
_FITS_FLOAT32 = float(np.finfo(np.float32).max)
_FITS_ALL = float(np.finfo(np.float16).max)
"""Numbers up to this size overflow in none of the float dtypes."""


@functools.cache
def dtype_name(dtype: np.dtype[Any]) -> str:
    """``dtype.name``, which NumPy takes three microseconds to make up."""
    name: str = dtype.name
    return name


_HEADER = object.__basicsize__
_word_at = ctypes.c_size_t.from_address


def _address_of_data(array: Array) -> int:
    """Read the address where NumPy's C structure has it: right after the header of the object."""
    return _word_at(id(array) + _HEADER).value


def _address_by_ctypes(array: Array) -> int:
    """Ask NumPy for the address, which takes it most of a microsecond."""
    return array.ctypes.data


_PROBE = np.empty((2, 3))
address = (
    _address_of_data
    if sys.implementation.name == "cpython"
    and all(_address_of_data(a) == a.ctypes.data for a in (_PROBE, _PROBE[1], _PROBE.T[::-1]))
    else _address_by_ctypes
)
"""The address of an array's first element, ``array.ctypes.data``."""


_LARGE = 1 << 22
"""Bytes from which on NumPy, too, asks the system for pages each time."""


def empty_like(array: Array) -> Array:
    """Memory for an array of the same shape, dtype and order of axes.

    If it is large it begins with a page, so that whole cache lines of it can be written past the
    caches, and its memory is used again when it is gone.
    """
    empty = np.empty_like(array, subok=False)
    if empty.nbytes < _LARGE:
        return empty
    shape, dtype, strides, size = empty.shape, empty.dtype, empty.strides, empty.nbytes
    del empty  # before there is room for another
    return np.ndarray(shape, dtype, room(size), 0, strides)


def shown(value: Any) -> str:
    """What an object says of itself, for messages; some objects raise when they are asked."""
    try:
        return repr(value)
    except Exception as error:  # noqa: BLE001 - it may be anything
        return f"an object of type {type(value).__name__}, whose repr raises {type(error).__name__}"


def is_a(value: Any, *kinds: type) -> bool:
    """``isinstance``, but not fooled by a ``__class__`` of an object's own making."""
    return issubclass(type(value), kinds)


def in_dtype(array: Array, dtype: str) -> Array:
    """The array itself if it has that dtype, or a copy, infinite where a number does not fit."""
    if dtype_name(array.dtype) == dtype and array.dtype.isnative:
        return array
    with np.errstate(over="ignore"):
        return array.astype(dtype)


def _plain(value: Any) -> Any:
    """Nested lists of what nested lists and tuples hold, whatever their own iterators tell."""
    if is_a(value, list):
        return [_plain(item) for item in list.__iter__(value)]
    if is_a(value, tuple):
        return [_plain(item) for item in tuple.__iter__(value)]
    return value


def _leaves(value: Any) -> Iterator[Any]:
    if type(value) is list:
        for item in value:
            yield from _leaves(item)
    else:
        yield value


def _from_python(value: Any, name: str, floats: type[np.floating[Any]]) -> Array:
    """Python numbers, or nested lists of them (and perhaps of arrays)."""
    if type(value) is float and abs(value) <= _FITS_FLOAT32:
        return np.array(value, floats)
    try:
        value = _plain(value)
        leaves = list(_leaves(value))
    except RecursionError:
        raise ValueError(f"{name} is nested too deeply for an array") from None
    if any(is_a(leaf, np.ma.MaskedArray) for leaf in leaves):
        raise TypeError(f"{name} holds a masked array, whose mask would be lost; pass its data")
    try:
        array = np.array(value)
    except OverflowError as error:
        raise ValueError(f"{name}: {error}") from None
    except ValueError as error:
        raise ValueError(
            f"{name} must be a rectangular array of numbers, got a ragged sequence: {shown(error)}"
        ) from None
    except MemoryError:
        raise
    except Exception as error:
        raise TypeError(f"{name} cannot be converted to an array: {shown(error)}") from error
    if leaves and all(is_a(leaf, int) for leaf in leaves) and array.dtype.kind not in "ib":
        raise ValueError(f"{name}: an integer does not fit int64, the widest dtype of integers")
    if any(is_a(leaf, np.ndarray, np.generic) for leaf in leaves):
        # Somebody chose a dtype, and Python numbers follow it.
        return _with_chosen_dtype(array, leaves)
    if array.dtype == np.float64:
        with np.errstate(over="ignore"):
            narrow = array.astype(floats)
        lost = np.isinf(narrow) & ~np.isinf(array)
        if lost.any():
            raise ValueError(
                f"{name}: {array[lost].flat[0].item()!r} does not fit float32, the dtype of Python "
                "floats; pass a float64 array"
            )
        return narrow
    if array.dtype == np.int64 and (
        array.size == 0 or (array.min() >= _INT32.min and array.max() <= _INT32.max)
    ):
        return array.astype(np.int32)
    return array


def _with_chosen_dtype(array: Array, leaves: list[Any]) -> Array:
    try:
        return array.astype(np.result_type(*leaves), copy=False)
    except Exception:  # noqa: BLE001 - no numbers, or a Python integer that does not fit
        return array


def as_array(value: Any, name: str, floats: type[np.floating[Any]] = np.float32) -> Array:
    """`value` as a NumPy array that is not copied if it is one; CUDA arrays stay where they are.

    It is never `value` itself but a view, whose shape and dtype nobody else can change, and which
    keeps ``resize`` from moving the memory.

    Parameters
    ----------
    value
        Any array-like.
    name
        The argument's name, for messages.
    floats
        What Python floats become.

    Raises
    ------
    ValueError
        If it is None, ragged, a Python number beyond its dtype, or larger than memory can be.
    TypeError
        If it is a masked array, cannot be made an array of numbers, or is a CUDA array where
        there is no CUDA.
    """
    if type(value) is np.ndarray:
        array = value[...]
    elif (view := VIEWERS.get(type(value))) is not None:
        found: Any = view(value, name)
        return found  # type: ignore[no-any-return] # an array as far as checks go
    elif value is None:
        raise ValueError(f"{name} must not be None.")
    elif is_a(value, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array, whose mask would be lost; pass its data")
    elif is_a(value, bool, int, float, complex, list, tuple) and not is_a(value, np.generic):
        array = _from_python(value, name, floats)
    elif is_a(value, str, bytes):
        raise TypeError(f"{name} must be an array of numbers, got {type(value).__name__}")
    else:
        array = _from_object(value, name)
    if array.dtype.kind in "OSUMm" or (array.dtype.kind == "V" and array.dtype.names is not None):
        raise TypeError(f"{name} must be an array of numbers, got dtype {array.dtype}")
    if (array.size or math.prod(n for n in array.shape if n)) > _MOST:
        raise ValueError(f"{name} has shape {array.shape}, more numbers than memory can hold")
    return array


def _from_object(value: Any, name: str) -> Array:
    """Anything that knows how to become an array."""
    try:
        if not is_on_gpu(value):
            if hasattr(value, "__array__") or hasattr(value, "__array_interface__"):
                return np.asarray(value)[...]
            if hasattr(value, "__dlpack__"):
                return np.from_dlpack(value)
            return np.asarray(value)[...]
    except MemoryError:
        raise
    except Exception as error:
        raise TypeError(
            f"{name} cannot be converted to an array: {type(value).__name__} says {shown(error)}"
        ) from error
    return cast("Array", VIEWERS[Foreign](value, name))


def native(array: Array) -> Array:
    """The array in native byte order and aligned: itself, or a copy."""
    if not array.dtype.isnative:
        return array.astype(array.dtype.newbyteorder("="))
    return array if array.flags.aligned else array.copy(order="K")


def require_float(array: Array, name: str) -> str:
    """The name of the dtype, if it is one of those that the library computes in.

    Raises
    ------
    TypeError
        If it is not.
    """
    dtype = dtype_name(array.dtype)
    if dtype not in FLOAT_NAMES:
        raise TypeError(f"{name} must have dtype {', '.join(FLOAT_NAMES)}, got {array.dtype}")
    return dtype


def is_float(array: Array) -> bool:
    """Whether the array has a dtype that gradients can have."""
    return dtype_name(array.dtype) in FLOAT_NAMES


def real_numbers(array: Array, name: str) -> Array:
    """An array of any numeric dtype with the imaginary part of complex numbers dropped."""
    kind = array.dtype.kind
    if kind == "c":
        return array.real
    if kind in "biuf" or dtype_name(array.dtype) in FLOAT_NAMES:
        return array
    raise TypeError(f"{name} must be an array of numbers, got dtype {array.dtype}")


def compute_dtype(dtype: np.dtype[Any]) -> str:
    """The name of the dtype that a dtype is computed in: float32 for all but float64."""
    return "float64" if dtype_name(dtype) == "float64" else "float32"


_NOTHING = contextlib.nullcontext()


def to_dtype(value: float, dtype: np.dtype[Any]) -> Any:
    """A float64 number as a NumPy scalar of `dtype`; halves are rounded from float32."""
    with _NOTHING if abs(value) <= _FITS_ALL else np.errstate(over="ignore"):
        return dtype.type(np.float32(value) if dtype.itemsize == 2 else value)  # noqa: PLR2004


def as_axis(axis: Any, name: str, rank: int) -> int:
    """A valid axis, counted from the front.

    Raises
    ------
    TypeError
        If it is not an integer.
    ValueError
        If it is out of range.
    """
    if type(axis) is np.ndarray and axis.ndim == 0:
        axis = axis[()]
    try:
        if is_a(axis, bool, np.bool_):
            raise TypeError
        index = operator.index(axis)
    except Exception:  # noqa: BLE001 - an object's own __index__ may raise anything
        raise TypeError(f"{name} must be an integer, got {shown(axis)}") from None
    if not -rank <= index < rank:
        raise ValueError(
            f"{name} must be in [{-rank}, {rank}) for logits of rank {rank}, got {index}"
        )
    return index + rank if index < 0 else index
