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

from .._math.compensated import accumulate, total_of
from .._math.primitives import widen
from .compile import compile_kernel, digest, inlined
from .examples import read_numbers
from .intrinsics import lanes_of, load, pointer, size_of, store, zeros
from .lanes import total_of_lanes
from .memory import read_indices
from .schedule import GRADIENTS, SAVED, STATES, WHOLE, solve
from .stream import close_stage, open_stage
from .vector import REGISTERS
from .workspace import lay_out, workspace_size

Kernel = Callable[[np.ndarray[Any, Any]], tuple[int, float]]

LABELS = 512
"""Sparse labels that are checked at a time."""

SUMMED = 4096
"""Losses that are summed one after the other; the sums are then added up in their order."""

_I64 = np.int64(0)


@inlined
def _share(amount: int, task: int, tasks: int) -> tuple[int, int]:
    """The first thing of a task, and the first of the next."""
    return amount * task // tasks, amount * (task + 1) // tasks


@inlined
def _blocks(p: Any, size: int) -> int:
    """How many blocks of examples there are for each outer index."""
    return (p.inner + size - 1) // size


@inlined
def _labels_out_of_range(problem: Any, task: int) -> int:
    """How many labels of a task's share are not classes."""
    p = problem[0]
    blocks = _blocks(p, LABELS)
    first, last = _share(p.outer * blocks, task, p.tasks)
    buffer = np.empty(LABELS, np.int64)
    bad = 0
    for block in range(first, last):
        begin = block % blocks * LABELS
        count = min(LABELS, p.inner - begin)
        place = pointer(p.labels.address)
        place = place + (block // blocks * p.labels.outer + begin * p.labels.example)
        if p.labels.plain == 0 or p.labels.example != size_of(_I64):
            copy = pointer(buffer.ctypes.data)
            read_indices(p.labels, place, count, copy)
            place = copy
        for i in range(count):
            label = load(place + i * size_of(_I64), _I64)
            bad += (label < 0) | (label >= p.classes)
    buffer[0] = 0  # only its address has been used: this keeps it alive until here
    return bad


@inlined
def _solve_task(
    problem: Any,
    saved: Any,
    phase: int,
    task: int,
    zero: Any,
    dense: Any,
    gradient: Any,
    rows: Any,
) -> None:
    """Solve the pieces of a task one after the other, with scratch memory of their own."""
    p = problem[0]
    first, last = _share(p.outer * p.units * p.pieces, task, p.tasks)
    scratch = np.empty(workspace_size(p, zero, gradient), np.uint8)
    work = lay_out(p, scratch.ctypes.data, zero, gradient)
    open_stage(work.stage)
    store(work.known, np.int64(-1))
    states = pointer(saved.ctypes.data)
    for item in range(first, last):
        solve(p, item, last, phase, states, work, zero, dense, gradient, rows)
    if p.d_logits.stream != 0:
        close_stage(work.stage)
    scratch[0] = 0


@inlined
def _sum_of_block(problem: Any, block: int, zero: Any) -> tuple[float, float]:
    """The sum of ``loss * weight`` over a block of examples in their order, as a pair."""
    p = problem[0]
    blocks = _blocks(p, SUMMED)
    o, begin = block // blocks, block % blocks * SUMMED
    slot = np.empty(2 * size_of(zero), np.uint8)
    buffer = pointer(slot.ctypes.data)
    losses = pointer(p.losses.address) + (o * p.losses.outer + begin * p.losses.example)
    weights = pointer(p.weights.address) + (o * p.weights.outer + begin * p.weights.example)
    high = widen(zero)
    low = high
    lanes = lanes_of(zero)
    for i in range(0, min(SUMMED, p.inner - begin), lanes):
        count = min(lanes, p.inner - begin - i)
        term = read_numbers(p.losses, losses + i * p.losses.example, count, buffer, zero)
        if p.weights.address != 0:
            place = weights + i * p.weights.example
            term = term * read_numbers(p.weights, place, count, buffer, zero)
        high, low = accumulate(high, low, term)
    slot[0] = 0
    return total_of_lanes(high, low)


def _make(
    compute: str, rows: bool, dense: bool, gradient: bool, source: str
) -> Callable[[np.ndarray[Any, Any]], tuple[int, float]]:
    """The Python function of a kernel: its closure is what the cache knows it by."""
    has_dense = True if dense else None
    has_gradient = True if gradient else None
    has_rows = True if rows else None
    registers = 1 if rows else REGISTERS

    # Inside a prange loop only arrays and integers come from outside; closures are constants.
    def kernel(problem: np.ndarray[Any, Any]) -> tuple[int, float]:
        _ = source
        p = problem[0]
        tasks = p.tasks
        bad = 0
        if not dense:
            for task in numba.prange(tasks):
                bad += _labels_out_of_range(problem, task)
            if bad > 0:
                return bad, 0.0
        # One phase, or three: see `solve`.
        saved = np.empty(1)
        phase, stop = WHOLE, WHOLE + 1
        if p.pieces > 1:
            lanes = lanes_of(zeros(compute, registers))
            saved = np.empty(p.outer * p.units * p.pieces * SAVED * lanes)
            phase, stop = STATES, GRADIENTS + 1 if gradient else GRADIENTS
        while phase < stop:
            for task in numba.prange(tasks):
                _solve_task(
                    problem,
                    saved,
                    phase,
                    task,
                    zeros(compute, registers),
                    has_dense,
                    has_gradient,
                    has_rows,
                )
            phase += 1
        if p.raw == 0:
            return bad, 0.0
        sums = np.empty((p.outer * _blocks(p, SUMMED), 2))
        for block in numba.prange(len(sums)):
            sums[block, 0], sums[block, 1] = _sum_of_block(
                problem, block, zeros(compute, registers)
            )
        high = 0.0
        low = 0.0
        for block in range(len(sums)):
            high, low = accumulate(high, low, sums[block, 0])
            low += sums[block, 1]
        return bad, total_of(high, low)

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
