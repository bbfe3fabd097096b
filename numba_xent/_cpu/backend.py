"""A problem on NumPy arrays in, losses and gradients out: records are filled in and kernels run."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numba
import numpy as np

from .._arrays import Array, compute_dtype
from .._layout import Layout, Strides, broadcast_strides, two_axes
from . import memory
from .kernels import kernel
from .record import Numbers, Shape, Tensor, pack
from .threads import begin_parallel, end_parallel
from .vector import LANES

if TYPE_CHECKING:
    from .._problem import Problem

FEW_CLASSES = 64
"""Up to so many classes, lanes are examples even where classes are contiguous."""

NEAR = 64
"""Lanes are classes only if neighbouring classes lie within so many bytes, a cache line."""

CHUNK = 256
"""Registers in a chunk: 16 KiB, a third of an L1 cache."""

KEPT = 8192
"""Registers of exponentials that a task keeps: 512 KiB. Longer units read their logits twice."""

PARALLEL_ELEMENTS = 1 << 16
"""From so many logits on, a problem is worth waking other threads."""


@functools.cache
def _ones(compute: str) -> tuple[Array, Tensor]:
    """A constant 1 for every example, as an operand (and the array, to keep it alive)."""
    array = np.ones(1, compute)
    return array, Tensor(address=array.ctypes.data, mover=memory.reader(compute, compute))


class _Operand:
    """An array of a problem on its way into a record."""

    def __init__(
        self,
        array: Array,
        axis: int | None,
        batch_shape: Strides,
        output: bool = False,
        indices: bool = False,
    ) -> None:
        self.array = array
        self.output = output
        self.indices = indices
        self.copied_from: Array | None = None
        self.axis = axis
        strides = array.strides
        shape = array.shape
        self.class_stride = 0
        if axis is not None:
            self.class_stride = strides[axis] if shape[axis] > 1 else 0
            strides = strides[:axis] + strides[axis + 1 :]
            shape = shape[:axis] + shape[axis + 1 :]
        self.strides = (
            strides if shape == batch_shape else broadcast_strides(batch_shape, shape, strides)
        )

    def copy(self, batch_shape: tuple[int, ...], inner: int) -> tuple[int, int]:
        """Stand in for the array by a contiguous copy, class axis last; its two batch strides."""
        moved = self.array if self.axis is None else np.moveaxis(self.array, self.axis, -1)
        shape = batch_shape + (() if self.axis is None else moved.shape[-1:])
        if self.output:
            self.copied_from = moved
            self.array = np.empty(shape, moved.dtype)
        else:
            self.array = np.ascontiguousarray(np.broadcast_to(moved, shape))
        step = self.array.itemsize
        if self.axis is not None:
            self.class_stride = step
            step *= shape[-1]
        return inner * step, step

    def write_back(self) -> None:
        """Hand what has been written to the copy of an output to the output."""
        if self.copied_from is not None:
            self.copied_from[...] = self.array

    def _mover(self, compute: str) -> int:
        name = self.array.dtype.name
        if self.output:
            return memory.writer(compute, name)
        if self.indices:
            return memory.index_reader(name)
        return memory.reader(compute, name)

    def tensor(self, strides: tuple[int, int], rows: bool, compute: str) -> Tensor:
        """The array as a kernel sees it."""
        array = self.array
        name = array.dtype.name
        itemsize = array.itemsize
        lanes = LANES[compute]
        outer, inner = strides
        if rows:
            unit, lane, vector = inner, self.class_stride, lanes * self.class_stride
        else:
            unit, lane, vector = lanes * inner, inner, self.class_stride
        direct = name == compute and lane == itemsize and self.axis is not None
        return Tensor(
            address=array.ctypes.data,
            outer=outer,
            unit=unit,
            lane=lane,
            vector=vector,
            classes=self.class_stride,
            mover=self._mover(compute),
            direct=direct,
        )


def _lanes_lie_along_outer(
    layout: Layout, strides: tuple[int, int], itemsize: int, lanes: int
) -> bool:
    """Whether the examples in the lanes of columns are better taken along the outer axis."""
    if layout.outer == 1 or layout.inner == 1:
        return layout.inner == 1
    outer_near = strides[0] == itemsize and layout.outer >= lanes
    inner_near = strides[1] == itemsize and layout.inner >= lanes
    return outer_near > inner_near or (outer_near == inner_near and layout.outer > layout.inner)


def solve(
    problem: Problem,
    loss: Array,
    raw: bool,
    upstream: Array | None,
    scale: float,
    d_logits: Array | None,
    d_labels: Array | None,
) -> float:
    """Compute a problem that has at least one example and class.

    Parameters
    ----------
    problem
        What to compute; its arrays are in native byte order and aligned.
    loss, raw
        Receives one loss per example: weighted and in any float dtype, or, if `raw`, unweighted
        and in the compute dtype.
    upstream, scale
        Multiply the gradients: an array of the batch shape in the compute dtype (None for ones),
        and a number.
    d_logits, d_labels
        Receive the gradients that are wanted; `d_logits` may be the logits themselves.

    Returns
    -------
    total
        The weighted sum of the losses if `raw`, else 0.

    Raises
    ------
    IndexError
        If a sparse label is not a class. Nothing has been written to `d_logits`.
    """
    logits = problem.logits
    compute = compute_dtype(logits.dtype.name)
    batch = problem.batch_shape
    axis = problem.axis
    dense = not problem.sparse
    gradient = d_logits is not None or d_labels is not None

    class_stride = logits.strides[axis] if logits.shape[axis] > 1 else 0
    rows = problem.classes > FEW_CLASSES and -NEAR <= class_stride <= NEAR

    operands: dict[str, _Operand] = {"logits": _Operand(logits, axis, batch)}
    labels = problem.labels
    if labels.dtype.name not in memory.READABLE:
        labels = labels.astype(compute)
    operands["labels"] = _Operand(labels, axis if dense else None, batch, indices=not dense)
    if problem.weights is not None:
        operands["weights"] = _Operand(problem.weights, None, batch)
    if upstream is not None:
        operands["upstream"] = _Operand(upstream, None, batch)
    operands["loss"] = _Operand(loss, None, batch, output=True)
    if d_logits is not None:
        operands["d_logits"] = _Operand(d_logits, axis, batch, output=True)
    if d_labels is not None:
        operands["d_labels"] = _Operand(d_labels, axis, batch, output=True)

    layout = two_axes(
        batch,
        [operand.strides for operand in operands.values()],
        [operand.array.nbytes for operand in operands.values()],
    )
    outer, inner = layout.outer, layout.inner
    cuts = {
        name: operand.copy(batch, inner) if cut is None else cut
        for (name, operand), cut in zip(operands.items(), layout.strides, strict=True)
    }
    lanes = LANES[compute]
    if not rows and _lanes_lie_along_outer(layout, cuts["logits"], logits.itemsize, lanes):
        outer, inner = inner, outer
        cuts = {name: (second, first) for name, (first, second) in cuts.items()}
    tensors = {name: o.tensor(cuts[name], rows, compute) for name, o in operands.items()}

    classes = problem.classes
    vectors, tail = divmod(classes, lanes) if rows else (classes, 0)
    parallel = logits.size >= PARALLEL_ELEMENTS and begin_parallel()
    shape = Shape(
        rows=rows,
        classes=classes,
        outer=outer,
        inner=inner,
        units=inner if rows else -(-inner // lanes),
        vectors=vectors,
        tail=tail,
        chunk=CHUNK,
        chunks=max(1, -(-vectors // CHUNK)),
        keep=vectors <= KEPT,
        raw=raw,
        tasks=numba.get_num_threads() if parallel else 1,
    )
    one = _ones(compute)[1]
    nothing = Tensor()
    weights = tensors.get("weights", one)
    record = pack(
        (
            tensors["logits"],
            tensors["labels"],
            weights,
            tensors.get("upstream", one),
            tensors["loss"],
            tensors["loss"]._replace(mover=memory.reader(compute, compute)),
            tensors.get("d_logits", nothing),
            tensors.get("d_labels", nothing),
        ),
        shape,
        Numbers(1.0 - problem.smoothing, problem.smoothing / classes, scale),
    )
    try:
        bad, total = kernel(compute, rows, dense, gradient, parallel)(record)
    finally:
        if parallel:
            end_parallel()
    if bad:
        raise IndexError
    for operand in operands.values():
        operand.write_back()
    return total
