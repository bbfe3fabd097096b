"""Batch axes of several arrays at once as two strided axes, (outer, inner), without a copy.

The class axis is set aside. The other axes are cut into a first and a second group, each of which
must be one evenly strided axis for every array. Where no cut suits all arrays, the one that copies
the fewest bytes is taken, and the caller copies what does not fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

Strides = tuple[int, ...]


class Layout(NamedTuple):
    """The two batch axes: their lengths, and each array's strides along them (None: must copy)."""

    outer: int
    inner: int
    strides: tuple[tuple[int, int] | None, ...]


def _as_one_axis(shape: Sequence[int], strides: Sequence[int]) -> int | None:
    """The stride of several axes seen as one, or None if they are not evenly spaced."""
    stride = 0
    length = 0
    for n, s in zip(reversed(shape), reversed(strides), strict=True):
        if n == 1:
            continue
        if length == 0:
            stride, length = s, n
        elif s == stride * length:
            length *= n
        else:
            return None
    return stride


def _cut(shape: Sequence[int], strides: Sequence[int], at: int) -> tuple[int, int] | None:
    first = _as_one_axis(shape[:at], strides[:at])
    second = _as_one_axis(shape[at:], strides[at:])
    return None if first is None or second is None else (first, second)


def _product(shape: Sequence[int]) -> int:
    product = 1
    for n in shape:
        product *= n
    return product


def two_axes(shape: Sequence[int], strides: Sequence[Strides], sizes: Sequence[int]) -> Layout:
    """The best cut for arrays of the given batch shape.

    Parameters
    ----------
    shape
        The batch shape, broadcast.
    strides
        For each array its strides along it, in bytes (0 where it is broadcast).
    sizes
        For each array the bytes that a copy would take.
    """
    if len(shape) == 1:
        return Layout(1, shape[0], tuple((0, s[0]) for s in strides))
    best: Layout | None = None
    best_cost = -1
    for at in range(len(shape) + 1):
        cuts = tuple(_cut(shape, s, at) for s in strides)
        cost = sum(size for cut, size in zip(cuts, sizes, strict=True) if cut is None)
        if best is None or cost < best_cost:
            best, best_cost = Layout(_product(shape[:at]), _product(shape[at:]), cuts), cost
        if cost == 0:
            break
    assert best is not None
    return best


def broadcast_strides(
    shape: Sequence[int], own_shape: Sequence[int], own_strides: Sequence[int]
) -> Strides:
    """Strides along `shape` of an array of rank 0, or of its rank with some axes of length 1."""
    if not own_shape:
        return (0,) * len(shape)
    return tuple(
        0 if own == 1 and n != 1 else stride
        for n, own, stride in zip(shape, own_shape, own_strides, strict=True)
    )


def has_internal_overlap(shape: Sequence[int], strides: Sequence[int], itemsize: int) -> bool:
    """Whether two elements of an array may lie in the same place.

    Exact for every view that slicing, transposing and broadcasting can make.
    """
    if 0 in shape:
        return False
    reach = itemsize
    for stride, n in sorted((abs(s), n) for s, n in zip(strides, shape, strict=True) if n > 1):
        if stride < reach:
            return True
        reach += stride * (n - 1)
    return False
