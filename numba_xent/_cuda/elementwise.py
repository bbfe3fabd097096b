"""Products of operands of any dtype, element by element, and sums along an axis.

Everything that is not worth a kernel of its own is made of these two: weights converted to the
compute dtype, weighted losses, gradients by weights and by broadcast labels, copies. Numbers are
float64 in between. A thread computes one element, and sums have a fixed order.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import cuda

from .device import SIZES

THREADS = 256
AXES = 4
CODES = {name: code for code, name in enumerate(SIZES)}
"""What stands for a dtype in :class:`Operand`."""

_NONE = np.int64(0)

load_float32: Any = None
load_float64: Any = None
load_float16: Any = None
load_bfloat16: Any = None
load_int64: Any = None
load_int32: Any = None
load_int16: Any = None
load_int8: Any = None
load_uint64: Any = None
load_uint32: Any = None
load_uint16: Any = None
load_uint8: Any = None
load_bool: Any = None
store_float32: Any = None
store_float64: Any = None
store_float16: Any = None
store_bfloat16: Any = None
store_int64: Any = None
store_int32: Any = None
store_int16: Any = None
store_int8: Any = None
store_uint64: Any = None
store_uint32: Any = None
store_uint16: Any = None
store_uint8: Any = None
store_bool: Any = None

_FLOAT32, _FLOAT64, _FLOAT16, _BFLOAT16 = (
    CODES[name] for name in ("float32", "float64", "float16", "bfloat16")
)
_INT64, _INT32, _INT16, _INT8 = (CODES[name] for name in ("int64", "int32", "int16", "int8"))
_UINT64, _UINT32, _UINT16, _UINT8 = (
    CODES[name] for name in ("uint64", "uint32", "uint16", "uint8")
)


class Operand(NamedTuple):
    """An array by its first element's address (0 for none), dtype, and byte strides."""

    address: int
    dtype: int
    first: int
    second: int
    third: int
    fourth: int


NO_OPERAND = Operand(0, 0, 0, 0, 0, 0)


class Product(NamedTuple):
    """What :func:`product` is told.

    Attributes
    ----------
    a, b, c
        Operands; 1 where there is none.
    out
        Where the product goes.
    size
        How many elements there are.
    second, third, fourth
        The lengths of the last three axes.
    narrow
        Whether operands and the product are rounded to float32.
    or_zero
        Whether the product is 0 where the number at `scale_at` is.
    shift_at
        The address of a float64 that is subtracted from `a`, or 0.
    scale_at
        The address of a float64 that multiplies the product, or 0.
    scale
        Multiplies it too.
    """

    a: Operand
    b: Operand
    c: Operand
    out: Operand
    size: int
    second: int
    third: int
    fourth: int
    narrow: int
    or_zero: int
    shift_at: int
    scale_at: int
    scale: float


class Fold(NamedTuple):
    """What :func:`fold` is told: ``(outer, length, inner)`` becomes ``(outer, parts, inner)``.

    Attributes
    ----------
    source, dtype, size
        The address, the dtype and its bytes of a contiguous array.
    outer, length, inner
        The lengths of its axes.
    parts
        How many sums the middle axis becomes.
    target
        The address of as many float64.
    """

    source: int
    dtype: int
    size: int
    outer: int
    length: int
    inner: int
    parts: int
    target: int


def load(dtype: int, address: int) -> float:
    """A number of a dtype as float64."""
    if dtype == _FLOAT32:
        return load_float32(address)
    if dtype == _FLOAT64:
        return load_float64(address)
    if dtype == _FLOAT16:
        return load_float16(address)
    if dtype == _BFLOAT16:
        return load_bfloat16(address)
    if dtype == _INT64:
        return load_int64(address)
    if dtype == _INT32:
        return load_int32(address)
    if dtype == _INT16:
        return load_int16(address)
    if dtype == _INT8:
        return load_int8(address)
    if dtype == _UINT64:
        return load_uint64(address)
    if dtype == _UINT32:
        return load_uint32(address)
    if dtype == _UINT16:
        return load_uint16(address)
    if dtype == _UINT8:
        return load_uint8(address)
    return load_bool(address)


def store(dtype: int, address: int, x: float) -> None:
    """Write a float64 as a number of a dtype; integers are truncated."""
    if dtype == _FLOAT32:
        store_float32(address, x)
    elif dtype == _FLOAT64:
        store_float64(address, x)
    elif dtype == _FLOAT16:
        store_float16(address, x)
    elif dtype == _BFLOAT16:
        store_bfloat16(address, x)
    elif dtype == _INT64:
        store_int64(address, x)
    elif dtype == _INT32:
        store_int32(address, x)
    elif dtype == _INT16:
        store_int16(address, x)
    elif dtype == _INT8:
        store_int8(address, x)
    elif dtype == _UINT64:
        store_uint64(address, x)
    elif dtype == _UINT32:
        store_uint32(address, x)
    elif dtype == _UINT16:
        store_uint16(address, x)
    elif dtype == _UINT8:
        store_uint8(address, x)
    else:
        store_bool(address, x)


def rounded(x: float, narrow: int) -> float:
    """A number, in float32 if that is wanted."""
    return np.float64(np.float32(x)) if narrow != 0 else x


def element(operand: Any, i: int, j: int, k: int, m: int, narrow: int) -> float:
    """An element of an operand, or 1."""
    if operand.address == 0:
        return 1.0
    at = operand.address + i * operand.first + j * operand.second
    return rounded(load(operand.dtype, at + k * operand.third + m * operand.fourth), narrow)


def product(task: Any) -> None:
    """``(a - shift) * b * c * scale`` for each element."""
    at = np.int64(cuda.blockIdx.x) * THREADS + np.int64(cuda.threadIdx.x)
    if at >= task.size:
        return
    rest, m = at // task.fourth, at % task.fourth
    rest, k = rest // task.third, rest % task.third
    i, j = rest // task.second, rest % task.second
    x = element(task.a, i, j, k, m, task.narrow)
    if task.shift_at != 0:
        x -= load_float64(task.shift_at)
    x *= element(task.b, i, j, k, m, task.narrow)
    x *= element(task.c, i, j, k, m, task.narrow)
    x *= task.scale
    if task.scale_at != 0:
        scale = load_float64(task.scale_at)
        x *= scale
        if task.or_zero != 0 and scale == 0.0:
            x = 0.0
    to = task.out.address + i * task.out.first + j * task.out.second
    to += k * task.out.third + m * task.out.fourth
    store(task.out.dtype, to, rounded(x, task.narrow))


def fold(task: Any) -> None:
    """The sum of every ``parts``-th element of the middle axis, from each of the first on."""
    at = np.int64(cuda.blockIdx.x) * THREADS + np.int64(cuda.threadIdx.x)
    if at >= task.outer * task.parts * task.inner:
        return
    rest, b = at // task.inner, at % task.inner
    a, part = rest // task.parts, rest % task.parts
    total = 0.0
    for i in range(part, task.length, task.parts):
        total += load(
            task.dtype, task.source + ((a * task.length + i) * task.inner + b) * task.size
        )
    store_float64(task.target + at * 8, total)
