"""The arrays that are computed on: the same numbers for every revision."""

from __future__ import annotations

import functools
import importlib
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
_BLOCK = 1 << 20  # random numbers are drawn so many at a time, and then converted


class Shape(NamedTuple):
    """The shape of logits, and which axis is that of the classes."""

    sizes: tuple[int, ...]
    axis: int

    @classmethod
    def parse(cls, text: str) -> Shape:
        """Read what the registry writes, such as ``"8 x [21] x 96"``."""
        words = text.split(" x ")
        axis = next(i for i, word in enumerate(words) if word.startswith("["))
        return cls(tuple(int(word.strip("[]")) for word in words), axis)

    @property
    def classes(self) -> int:
        """How many classes there are."""
        return self.sizes[self.axis]

    @property
    def batch(self) -> tuple[int, ...]:
        """The sizes of all other axes."""
        return self.sizes[: self.axis] + self.sizes[self.axis + 1 :]


def dtype_of(name: str) -> np.dtype[Any]:
    """The dtype of a name.

    Raises
    ------
    NotImplementedError
        For bfloat16, if there is no ml_dtypes: asv takes that for a benchmark to skip.
    """
    if name != "bfloat16":
        return np.dtype(name)
    try:
        found: np.dtype[Any] = np.dtype(importlib.import_module("ml_dtypes").bfloat16)
    except ImportError as error:
        raise NotImplementedError("bfloat16 needs ml_dtypes") from error
    return found


@functools.lru_cache(maxsize=2)
def logits(shape: Shape, dtype: str) -> Array:
    """Random numbers of mean 0 and deviation 1."""
    return _random(shape.sizes, dtype, seed=0)


@functools.lru_cache(maxsize=2)
def dense_labels(shape: Shape, dtype: str, kind: str) -> Array:
    """Labels per class: of the logits' dtype, of one example for all of them, or integers."""
    if kind == "int8":
        wanted = np.arange(shape.classes).reshape([-1] + [1] * (len(shape.sizes) - 1))
        hot = np.arange(np.prod(shape.batch)).reshape(shape.batch) % shape.classes
        return np.ascontiguousarray(np.moveaxis(wanted == hot, 0, shape.axis).astype(np.int8))
    sizes = shape.sizes
    if kind == "broadcast":
        sizes = tuple(n if i == shape.axis else 1 for i, n in enumerate(sizes))
    drawn = np.abs(_random(sizes, "float32", seed=1)) / np.float32(shape.classes)
    return drawn.astype(dtype_of(dtype))


@functools.lru_cache(maxsize=2)
def class_numbers(shape: Shape, kind: str) -> Array:
    """A random class for each example."""
    dtype = "int64" if kind == "default" else kind
    return np.random.default_rng(2).integers(0, shape.classes, shape.batch, dtype)


@functools.lru_cache(maxsize=2)
def weights(sizes: tuple[int, ...], dtype: str) -> Array:
    """A weight for each example, some of them 0."""
    drawn = np.random.default_rng(3).integers(0, 4, sizes)
    return drawn.astype(dtype_of(dtype))


@functools.lru_cache(maxsize=2)
def written(sizes: tuple[int, ...], dtype: str) -> Array:
    """An array to write to, whose memory is there already."""
    return np.ones(sizes, dtype_of(dtype))


def _random(sizes: tuple[int, ...], dtype: str, seed: int) -> Array:
    rng = np.random.default_rng(seed)
    array = np.empty(sizes, dtype_of(dtype))
    flat = array.reshape(-1)
    for start in range(0, flat.size, _BLOCK):
        block = flat[start : start + _BLOCK]
        block[...] = rng.standard_normal(block.size, np.float32)
    return array
