"""Loops over all units, serial and parallel from one source, compiled when first needed.

A kernel is made for a compute dtype, a schedule, a kind of labels, and a value with or without
gradient. Everything else (dtypes in memory, strides, label smoothing, weights, reductions) is a
number in its record. Compiled kernels are cached on disk.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numba.extending import register_jitable

from .._math.compensated import accumulate
from .._math.primitives import widen
from .compile import compile_kernel, digest
from .intrinsics import lanes_of, pointer, zeros
from .lanes import each, total_of_lanes
from .schedule import (
    examples_in,
    lay_out,
    read_examples,
    read_labels,
    solve,
    workspace_size,
)

Kernel = Callable[[np.ndarray[Any, Any]], tuple[int, float]]


@register_jitable
def _units_of(p: Any, task: int) -> tuple[int, int]:
    """The first unit of a task, and the first of the next."""
    units = p.outer * p.units
    return units * task // p.tasks, units * (task + 1) // p.tasks


@register_jitable
def _labels_out_of_range(problem: Any, task: int, zero: Any, rows: Any) -> int:
    """How many labels of a task's units are not classes."""
    p = problem[0]
    first, last = _units_of(p, task)
    labels = np.empty(lanes_of(zero), np.int64)
    bad = 0
    for unit in range(first, last):
        o, u = unit // p.units, unit % p.units
        count = examples_in(p, u, zero, rows)
        read_labels(p, o, u, count, pointer(labels.ctypes.data))
        for i in range(count):
            if labels[i] < 0 or labels[i] >= p.classes:
                bad += 1
    return bad


@register_jitable
def _solve_task(problem: Any, task: int, zero: Any, dense: Any, gradient: Any, rows: Any) -> None:
    """Solve the units of a task one after the other, with scratch memory of their own."""
    p = problem[0]
    first, last = _units_of(p, task)
    scratch = np.empty(workspace_size(p, zero, gradient), np.uint8)
    work = lay_out(p, scratch.ctypes.data, zero, gradient)
    for unit in range(first, last):
        solve(p, unit // p.units, unit % p.units, work, zero, dense, gradient, rows)
    scratch[0] = 0  # only its address has been used: this keeps it alive until here


@register_jitable
def _weighted_sum(problem: Any, zero: Any, rows: Any) -> float:
    """The sum of ``loss * weight`` over all examples in their order, if it is wanted."""
    p = problem[0]
    if p.raw == 0:
        return 0.0
    scratch = np.empty(workspace_size(p, zero, None), np.uint8)
    work = lay_out(p, scratch.ctypes.data, zero, None)
    high = each(rows, widen(zero))
    low = high
    for unit in range(p.outer * p.units):
        o, u = unit // p.units, unit % p.units
        count = examples_in(p, u, zero, rows)
        loss = each(rows, widen(read_examples(p.losses, o, u, count, work, zero)))
        weight = each(rows, widen(read_examples(p.weights, o, u, count, work, zero)))
        high, low = accumulate(high, low, loss * weight)
    scratch[0] = 0
    return total_of_lanes(high, low)


def _make(
    compute: str, rows: bool, dense: bool, gradient: bool, source: str
) -> Callable[[np.ndarray[Any, Any]], tuple[int, float]]:
    """The Python function of a kernel: its closure is what the cache knows it by."""
    has_dense = True if dense else None
    has_gradient = True if gradient else None
    has_rows = True if rows else None

    # Inside a prange loop only arrays and integers come from outside; closures are constants.
    def kernel(problem: np.ndarray[Any, Any]) -> tuple[int, float]:
        _ = source
        tasks = problem[0].tasks
        bad = 0
        if not dense:
            for task in numba.prange(tasks):
                bad += _labels_out_of_range(problem, task, zeros(compute), has_rows)
            if bad > 0:
                return bad, 0.0
        for task in numba.prange(tasks):
            _solve_task(problem, task, zeros(compute), has_dense, has_gradient, has_rows)
        return bad, _weighted_sum(problem, zeros(compute), has_rows)

    return kernel


@functools.cache
def kernel(compute: str, rows: bool, dense: bool, gradient: bool, parallel: bool) -> Kernel:
    """The compiled kernel for these choices."""
    words = [
        "rows" if rows else "columns",
        "dense" if dense else "sparse",
        "gradient" if gradient else "value",
        compute,
        "parallel" if parallel else "serial",
    ]
    function = _make(compute, rows, dense, gradient, digest())
    return compile_kernel(function, "_".join(words), parallel)
