"""Kernels launched for all tasks: one after the other, or on as many threads as there are.

One function for all problems, compiled once for one thread and once for many. What it allocates it
allocates before any kernel runs: a lack of memory is an error like any other.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numba
import numpy as np

from .._math.compensated import accumulate, total_of
from .compile import compile_function, digest, inlined, parallel_part
from .intrinsics import call_at, load, pointer, size_of
from .kernels import SUM_SIZE
from .order import LOSSES
from .vector import PAGE, REGISTER

SHARES = 4
"""Pieces for each task, at least, between which tasks wait for each other."""

Launch = Callable[[Any, int, int, int], tuple[int, float]]

_F64, _I64 = np.float64(0), np.int64(0)


@parallel_part
def _run_parallel(kernel: int, problem: int, n: int) -> None:
    for i in numba.prange(n):
        call_at(kernel, (problem, i))


@inlined
def _run(kernel: int, problem: int, n: int, parallel: Any) -> None:
    if parallel is not None:
        _run_parallel(kernel, problem, n)
    else:
        for i in range(n):
            call_at(kernel, (problem, i))


@inlined
def _launch(problem: Any, check: int, solve: int, add: int, parallel: Any) -> tuple[int, float]:
    p = problem[0]
    tasks = p.tasks
    units = p.outer * p.units
    span = max(p.span, (SHARES * tasks + p.pieces - 1) // p.pieces)
    size = max(p.results_size, tasks * REGISTER, min(units, span) * p.pieces * p.saved)
    memory = np.empty(PAGE + tasks * p.plan.size + size, np.uint8)
    base = (memory.ctypes.data + PAGE - 1) // PAGE * PAGE
    problem.scratch[0] = base
    problem.results[0] = base + tasks * p.plan.size
    address = problem.ctypes.data
    problem.own[0] = address
    results = pointer(base + tasks * p.plan.size)
    bad = 0
    if check != 0:
        _run(check, address, tasks, parallel)
        for task in range(tasks):
            bad += load(results + task * size_of(_I64), _I64)
        if bad != 0:
            return bad, 0.0
    for begin in range(0, units, span):
        problem.begin[0] = begin
        problem.span_units[0] = min(units - begin, span)
        for phase in range(p.phase, p.phases):
            problem.now[0] = phase
            # Losses are those of whole units.
            problem.block[0] = 1 if phase == LOSSES else p.most_units
            _run(solve, address, tasks, parallel)
    total = 0.0
    if add != 0:
        _run(add, address, p.blocks, parallel)
        low = 0.0
        for block in range(p.blocks):
            place = results + block * SUM_SIZE
            total, low = accumulate(total, low, load(place, _F64))
            low += load(place + size_of(_F64), _F64)
        total = total_of(total, low)
    memory[0] = 0  # only its address has been used: this keeps it alive until here
    return bad, total


def _make(parallel: bool, source: str) -> Launch:
    is_parallel = True if parallel else None

    def launch(problem: Any, check: int, solve: int, add: int) -> tuple[int, float]:
        _ = source
        return _launch(problem, check, solve, add, is_parallel)

    return launch


@functools.cache
def launcher(parallel: bool) -> Launch:
    """The function that solves a problem.

    It takes the record, in an array of length 1, and the kernels that check labels, solve, and add
    up losses (0 for what is not to be done). It returns how many labels are not classes, and the
    sum; if there are such labels, nothing has been written.
    """
    name = "launch_parallel" if parallel else "launch"
    launch: Launch = compile_function(_make(parallel, digest()), name)
    return launch
