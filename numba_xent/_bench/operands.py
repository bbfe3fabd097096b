"""The arrays of a case, each made when it is first asked for."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from numba_xent._bench.cases import Case, Task

Array = NDArray[Any]
_BLOCK = 1 << 20  # random numbers are drawn so many at a time, and then converted


class Operands:
    """Logits, labels and outputs of one case; the same for every process that makes them.

    Parameters
    ----------
    case : Case
        Shape, class axis and dtype.
    """

    def __init__(self, case: Case) -> None:
        self.case = case
        if case.dtype == "bfloat16":
            self.dtype = np.dtype(importlib.import_module("ml_dtypes").bfloat16)
        else:
            self.dtype = np.dtype(case.dtype)

    @functools.cached_property
    def logits(self) -> Array:
        """Random numbers of mean 0 and deviation 1."""
        rng = np.random.default_rng(0)
        return self._filled(lambda size: rng.standard_normal(size, np.float32))

    @functools.cached_property
    def dense(self) -> Array:
        """A random probability for each class."""
        rng = np.random.default_rng(1)
        # Small enough that the sum over many classes is no infinite float16.
        scale = np.float32(2 / self.case.classes)
        labels = self._filled(lambda size: rng.random(size, np.float32) * scale)
        np.divide(labels, labels.sum(axis=self.case.axis, keepdims=True), out=labels)
        return labels

    @functools.cached_property
    def sparse(self) -> NDArray[np.int64]:
        """A random class for each example."""
        return np.random.default_rng(2).integers(0, self.case.classes, self.case.batch)

    @functools.cached_property
    def weights(self) -> Array:
        """A weight for each example, some of them 0."""
        return (np.random.default_rng(3).random(self.case.batch) * 4 // 1).astype(self.dtype)

    @functools.cached_property
    def broadcast(self) -> Array:
        """The labels of one example, for all of them."""
        first = tuple(slice(None) if i == self.case.axis else slice(1) for i in self._axes)
        return np.ascontiguousarray(self.dense[first])

    @functools.cached_property
    def gradient(self) -> Array:
        """Where to put a gradient."""
        return np.ones(self.case.shape, self.dtype)

    @functools.cached_property
    def losses(self) -> Array:
        """Where to put the losses of all examples."""
        return np.ones(self.case.batch, self.dtype)

    def labels(self, kind: str) -> Array:
        """The labels of one kind."""
        return self.dense if kind == "dense" else self.sparse

    def moved(self, task: Task) -> tuple[list[Array], list[Array]]:
        """List the arrays that a call without options must read, and those it must write."""
        reads = [self.logits, self.labels(task.labels)]
        return reads, [self.gradient, self.losses] if task.gradient else [self.losses]

    def nbytes(self, task: Task) -> int:
        """Count the bytes that a call without options must move."""
        return sum(array.nbytes for arrays in self.moved(task) for array in arrays)

    @property
    def _axes(self) -> range:
        return range(len(self.case.shape))

    def _filled(self, draw: Callable[[int], Array]) -> Array:
        array = np.empty(self.case.shape, self.dtype)
        flat = array.reshape(-1)
        for start in range(0, flat.size, _BLOCK):
            block = flat[start : start + _BLOCK]
            block[...] = draw(block.size)
        return array
