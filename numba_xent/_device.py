"""An array on a GPU, as far as the checks of arguments need to know it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np

_CUDA_DEVICES = (2, 13)  # kDLCUDA and kDLCUDAManaged of DLPack


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
    """

    owner: Any
    address: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: np.dtype[Any]
    device: int
    stream: int
    readonly: bool = False

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
        return replace(self, dtype=np.dtype(f"f{self.dtype.itemsize // 2}"))

    @property
    def flags(self) -> Any:
        """Memory on a GPU is aligned."""
        return _ALIGNED

    def __getitem__(self, key: Any) -> DeviceArray:
        """Without its last axis, which has length 1: ``array[..., 0]``, all that is needed."""
        assert key == (..., 0), key
        assert self.shape[-1] == 1, self.shape
        return replace(self, shape=self.shape[:-1], strides=self.strides[:-1])


_ALIGNED = SimpleNamespace(aligned=True)

VIEWERS: dict[type, Callable[[Any, str], DeviceArray]] = {}
"""Types of arrays that are known to be on a GPU, and what makes a :class:`DeviceArray` of each."""


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
