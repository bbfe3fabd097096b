"""An array on a GPU, as far as the checks of arguments need to know it."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np

_CUDA_DEVICES = (2, 13)  # kDLCUDA and kDLCUDAManaged of DLPack


@dataclass(slots=True, eq=False, frozen=True)
class Layout:
    """What arrays of the same shape, strides and dtype have in common; equal ones are one object.

    Attributes
    ----------
    shape, strides, dtype
        As NumPy has them; strides in bytes.
    contiguous
        Whether it has no gaps and its last axis is side by side.
    low, high
        From where to where elements lie, from the address of the first on; equal if there are none.
    """

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: np.dtype[Any]
    contiguous: bool
    low: int
    high: int


@functools.lru_cache(4096)
def contiguous_strides(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """The strides of an array without gaps, its last axis side by side."""
    return tuple([itemsize * math.prod(shape[i + 1 :]) for i in range(len(shape))])


@functools.lru_cache(4096)
def layout_of(shape: tuple[int, ...], strides: tuple[int, ...], dtype: np.dtype[Any]) -> Layout:
    """The only layout of its kind, so that it can be compared and hashed by what it is."""
    low = high = 0
    if 0 not in shape:
        reach = [(n - 1) * s for n, s in zip(shape, strides, strict=True)]
        low, high = sum(min(0, r) for r in reach), sum(max(0, r) for r in reach) + dtype.itemsize
    contiguous = strides == contiguous_strides(shape, dtype.itemsize)
    return Layout(shape, strides, dtype, contiguous, low, high)


@dataclass(slots=True, eq=False)
class DeviceArray:
    """What is known of somebody's CUDA array; its elements are not touched.

    Attributes
    ----------
    owner
        The array as it came, which keeps the memory alive.
    address
        Of the first element, on the GPU.
    shape, strides, dtype
        As NumPy has them; strides in bytes.
    device
        The number of the GPU.
    stream
        The stream on which its elements are ready, as ``__cuda_stream__`` gives it; 0 if there is
        none in particular.
    readonly
        Whether it must not be written.
    known
        The layout, if it has been looked up already; then shape, strides and dtype stay.
    """

    owner: Any
    address: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: np.dtype[Any]
    device: int
    stream: int
    readonly: bool = False
    known: Layout | None = None

    @property
    def layout(self) -> Layout:
        """The shape, strides and dtype, and what follows from them."""
        return self.known or layout_of(self.shape, self.strides, self.dtype)

    @property
    def ndim(self) -> int:
        """The rank."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    @property
    def real(self) -> DeviceArray:
        """The real part of complex numbers, where it lies."""
        return replace(self, dtype=np.dtype(f"f{self.dtype.itemsize // 2}"), known=None)

    @property
    def flags(self) -> Any:
        """Memory on a GPU is aligned."""
        return _ALIGNED

    def __getitem__(self, key: Any) -> DeviceArray:
        """Without its last axis, which has length 1: ``array[..., 0]``, all that is needed."""
        assert key == (..., 0), key
        assert self.shape[-1] == 1, self.shape
        return replace(self, shape=self.shape[:-1], strides=self.strides[:-1], known=None)


_ALIGNED = SimpleNamespace(aligned=True)


class Foreign:
    """Stands for the types of all arrays on a GPU that are not known."""


VIEWERS: dict[type, Callable[[Any, str], DeviceArray]] = {}
"""Types of arrays that are known to be on a GPU, and what makes a :class:`DeviceArray` of each.

Those who can read arrays say so here, so that who asks need not know them.
"""


def is_on_gpu(value: Any) -> bool:
    """Whether an object says that it is an array on a GPU."""
    if type(value) in VIEWERS:
        return True
    place = getattr(value, "__dlpack_device__", None)
    if place is not None:
        try:
            return int(place()[0]) in _CUDA_DEVICES
        except Exception:  # noqa: BLE001 - a protocol that fails is not followed
            return False
    return hasattr(value, "__cuda_array_interface__")
