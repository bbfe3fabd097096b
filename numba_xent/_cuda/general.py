"""Element-wise products and sums over axes, for arrays of any dtype and of up to four uneven axes.

What is not worth a kernel of its own: see :mod:`.elementwise`. Everything runs on one stream.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from .._arrays import dtype_name
from .._device import DeviceArray, contiguous_strides
from .._layout import broadcast_strides
from . import arrays, driver, elementwise, kernels
from .elementwise import AXES, CODES, NO_OPERAND, Fold, Operand, Product
from .task import flat

_FEW = 64
"""How many numbers a thread adds up."""

Strides = tuple[int, ...]


class TooUnevenError(ValueError):
    """Arrays whose axes cannot be seen as four evenly strided ones."""


@functools.lru_cache(4096)
def merged(
    shape: tuple[int, ...], strides: tuple[Strides, ...]
) -> tuple[tuple[int, ...], tuple[Strides, ...]]:
    """Four axes that several arrays of a shape can be seen to have, and the strides of each.

    Raises
    ------
    TooUnevenError
        If there are more.
    """
    lengths: list[int] = []
    steps: list[tuple[int, ...]] = []
    for n, own in zip(shape, zip(*strides, strict=True), strict=True):
        if n == 1:
            continue
        if steps and all(last == n * s for last, s in zip(steps[-1], own, strict=True)):
            lengths[-1] *= n
            steps[-1] = own
        else:
            lengths.append(n)
            steps.append(own)
    missing = AXES - len(lengths)
    if missing < 0:
        raise TooUnevenError(
            f"CUDA arrays of shape {shape} have strides that are too uneven: seen together, their "
            f"axes must be {AXES} evenly strided ones at most; pass contiguous arrays"
        )
    lengths = [1] * missing + lengths
    steps = [(0,) * len(strides)] * missing + steps
    return tuple(lengths), tuple(zip(*steps, strict=True))


@functools.cache
def _kernel(name: str, number: int) -> Any:
    return driver.load(name, functools.partial(kernels.elementwise_ptx, name), number)


def _launch(name: str, count: int, task: Any, number: int, handle: int) -> None:
    if count:
        grid = (-(-count // elementwise.THREADS), 1)
        loaded = _kernel(name, number)
        driver.Prepared(loaded, grid, elementwise.THREADS, flat(task)).launch(handle)


def multiply(
    out: DeviceArray,
    *factors: DeviceArray | None,
    handle: int,
    scale: float = 1.0,
    scale_at: int = 0,
    shift_at: int = 0,
    narrow: bool = False,
    or_zero: bool = False,
) -> None:
    """Write a product of up to three arrays that broadcast to `out`, which has another memory.

    Parameters
    ----------
    out
        Receives the product. Integers are truncated.
    factors
        Arrays, of rank 0 or that of `out`; 1 for None.
    handle
        The stream.
    scale, scale_at, shift_at, narrow, or_zero
        As :class:`.elementwise.Product` has them.

    Raises
    ------
    TooUnevenError
        If strides cannot be followed.
    """
    present = [out, *(f for f in factors if f is not None)]
    strides = [out.strides]
    strides += [broadcast_strides(out.shape, f.shape, f.strides) for f in present[1:]]
    lengths, steps = merged(out.shape, tuple(strides))
    operands = [
        Operand(array.address, CODES[dtype_name(array.dtype)], *own)
        for array, own in zip(present, steps, strict=True)
    ]
    a, b, c = [*operands[1:], NO_OPERAND, NO_OPERAND, NO_OPERAND][:3]
    count = math.prod(lengths)
    task = Product(
        a, b, c, operands[0], count, lengths[1], lengths[2], lengths[3], int(narrow), int(or_zero),
        shift_at, scale_at, float(scale),
    )  # fmt: skip
    _launch("product", count, task, out.device, handle)


def converted(
    array: DeviceArray, shape: tuple[int, ...], dtype: np.dtype[Any], handle: int
) -> DeviceArray:
    """A contiguous copy of a shape that the array broadcasts to, and of another dtype."""
    copy = arrays.temporary(shape, dtype, array.device, handle)
    multiply(copy, array, handle=handle)
    return copy


def sum_to_shape(terms: DeviceArray, shape: tuple[int, ...], handle: int) -> DeviceArray:
    """Contiguous terms summed over the axes that an array of a shape was broadcast on, as float64.

    The shape has rank 0, or the rank of the terms and in each axis their length or 1.
    """
    full = terms.shape
    kept = shape or (1,) * len(full)
    axis = len(full)
    while axis > 0:
        axis -= 1
        if kept[axis] == full[axis]:
            continue
        end = axis + 1
        while axis > 0 and (kept[axis - 1] != full[axis - 1] or full[axis - 1] == 1):
            axis -= 1
        outer, length, inner = (
            math.prod(n) for n in (full[:axis], full[axis:end], terms.shape[end:])
        )
        terms = _sum_of_axis(terms, outer, length, inner, handle)
        full = full[:axis] + (1,) * (end - axis) + full[end:]
        terms.shape = full
    terms.shape = shape
    terms.strides = contiguous_strides(shape, terms.dtype.itemsize)
    return terms


def _sum_of_axis(
    terms: DeviceArray, outer: int, length: int, inner: int, handle: int
) -> DeviceArray:
    while True:
        parts = max(1, -(-length // _FEW))
        target = arrays.temporary((outer, parts, inner), np.dtype(np.float64), terms.device, handle)
        code, size = CODES[dtype_name(terms.dtype)], terms.dtype.itemsize
        task = Fold(terms.address, code, size, outer, length, inner, parts, target.address)
        _launch("fold", outer * parts * inner, task, terms.device, handle)
        terms, length = target, parts
        if parts == 1:
            return terms
