"""What one thread does of a problem: C functions of the record and the number of a task.

A kernel is made for a compute dtype, a schedule, a kind of labels, and a value with or without
gradient; for rows of halves there is one of its own, because to convert them on the way to buffers
takes longer than the rest. Everything else (other dtypes in memory, strides, label smoothing, weights, reductions) is a
number in its record. Kernels are compiled when first needed and cached on disk; the same ones run
on one thread and on many, see :mod:`.launch`.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from typing import Any

import numba
import numpy as np
from numba import types

from .._math.compensated import accumulate
from .._math.primitives import widen
from .compile import compile_callback, digest, inlined
from .examples import read_numbers
from .intrinsics import align_stack, fence, lanes_of, load, pointer, size_of, store, zeros
from .lanes import total_of_lanes
from .memory import read_indices
from .order import turn_of
from .panel import open_panels
from .record import DTYPE
from .schedule import solve
from .stream import close_stage, open_stage
from .vector import HALVES, REGISTER, REGISTERS
from .workspace import LABELS, lay_out

SUMMED = 4096
"""Losses that are summed one after the other; the sums are then added up in their order."""

SUM_SIZE = 2 * REGISTER
"""Bytes of the result of such a sum: a pair, and room to work in."""

_F64, _I64 = np.float64(0), np.int64(0)
_KERNEL = types.void(types.CPointer(numba.from_dtype(DTYPE)), types.int64)


@inlined
def _share(amount: int, task: int, tasks: int) -> tuple[int, int]:
    """The first thing of a task, and the first of the next."""
    return amount * task // tasks, amount * (task + 1) // tasks


@inlined
def _blocks(p: Any, size: int) -> int:
    """How many blocks of examples there are for each outer index."""
    return (p.inner + size - 1) // size


def _make_checker(source: str) -> Any:
    def check(problem: Any, task: int) -> None:
        _ = source
        p = numba.carray(problem, 1)[0]
        blocks = _blocks(p, LABELS)
        first, last = _share(p.outer * blocks, task, p.tasks)
        copy = pointer(p.scratch) + task * p.plan.size
        bad = 0
        for block in range(first, last):
            begin = block % blocks * LABELS
            count = min(LABELS, p.inner - begin)
            place = pointer(p.labels.address)
            place = place + (block // blocks * p.labels.outer + begin * p.labels.example)
            if p.labels.mover != 0:
                read_indices(p.labels, place, count, copy)
                place = copy
            for i in range(count):
                label = load(place + i * size_of(_I64), _I64)
                bad += (label < 0) | (label >= p.classes)
        store(pointer(p.results) + task * size_of(_I64), np.int64(bad))

    return check


def _make_solver(
    compute: str, stored: str, rows: bool, dense: bool, gradient: bool, source: str
) -> Any:
    has_dense = True if dense else None
    has_gradient = True if gradient else None
    has_rows = True if rows else None
    registers = 1 if rows else REGISTERS

    def solve_task(problem: Any, task: int) -> None:
        _ = source
        align_stack()
        p = numba.carray(problem, 1)[0]
        zero = zeros(compute, registers)
        first, last = _share(p.span_units * p.pieces, task, p.tasks)
        first += p.begin * p.pieces
        last += p.begin * p.pieces
        work = lay_out(p, task, zeros(stored, registers))
        if gradient:
            open_stage(work.stage)
        store(work.known, np.int64(-1))
        store(work.waiting, _I64)
        if not rows:
            open_panels(p, first, last, work.panels)
        o = u = piece = 0
        for item in range(first, last):
            # Counted where it can be, for it takes a while to divide.
            if p.pieces > 1 or item == first:
                unit, piece, _ = turn_of(p, item)
                o, u = unit // p.units, unit % p.units
            solve(p, item, last, o, u, piece, work, zero, has_dense, has_gradient, has_rows)
            u += 1
            if u == p.units:
                u = 0
                o += 1
        if gradient and p.d_logits.stream != 0:
            close_stage(work.stage)
            fence()

    return solve_task


def _make_summer(compute: str, source: str) -> Any:
    def add(problem: Any, block: int) -> None:
        _ = source
        p = numba.carray(problem, 1)[0]
        zero = zeros(compute, 1)
        lanes = lanes_of(zero)
        blocks = _blocks(p, SUMMED)
        o, begin = block // blocks, block % blocks * SUMMED
        result = pointer(p.results) + block * SUM_SIZE
        buffer = result + REGISTER
        losses = pointer(p.losses.address) + (o * p.losses.outer + begin * p.losses.example)
        weights = pointer(p.weights.address) + (o * p.weights.outer + begin * p.weights.example)
        high = widen(zero)
        low = high
        for i in range(0, min(SUMMED, p.inner - begin), lanes):
            count = min(lanes, p.inner - begin - i)
            term = read_numbers(p.losses, losses + i * p.losses.example, count, buffer, zero)
            if p.weights.address != 0:
                place = weights + i * p.weights.example
                term = term * read_numbers(p.weights, place, count, buffer, zero)
            high, low = accumulate(high, low, term)
        total, total_low = total_of_lanes(high, low)
        store(result, total)
        store(result + size_of(_F64), total_low)

    return add


@functools.cache
def checker() -> int:
    """The kernel that counts the labels of a task's share that are not classes: an int64."""
    return compile_callback(_make_checker(digest()), _KERNEL, "check_labels")


@functools.cache
def solver(compute: str, stored: str, rows: bool, dense: bool, gradient: bool) -> int:
    """The kernel that solves a task's share of a problem.

    It is for operands that lie as halves, if `stored` is one of :data:`.vector.HALVES`; such a
    kernel is for rows whose classes follow each other, in all tensors that have classes. Else
    `stored` is the compute dtype, and the kernel is for everything.
    """
    words = [
        "rows" if rows else "columns",
        "dense" if dense else "sparse",
        "gradient" if gradient else "value",
        stored,
    ]
    function = _make_solver(compute, stored, rows, dense, gradient, digest())
    return compile_callback(function, _KERNEL, "_".join(words))


def solvers(compute: str, dtype: str) -> Iterator[tuple[Any, ...]]:
    """What :func:`solver` may be asked for, for logits of a dtype and what is computed with."""
    yield from itertools.product((compute,), (compute,), *[(False, True)] * 3)
    if dtype in HALVES:
        yield from itertools.product((compute,), (dtype,), (True,), *[(False, True)] * 2)


@functools.cache
def summer(compute: str) -> int:
    """The kernel that sums ``loss * weight`` over a block of examples in their order: a pair."""
    return compile_callback(_make_summer(compute, digest()), _KERNEL, f"sum_{compute}")
