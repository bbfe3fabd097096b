"""Panels made of short runs of examples, wherever each of them lies.

A class axis with a few dozen examples behind it has them in runs, too short for units of their own.
Here they are put side by side in a panel, run by run, and gradients go back the same way. These are
C functions of their own, for a few problems only: as a part of every kernel for columns they would
make its compilation a tenth longer.
"""

from __future__ import annotations

import functools
from typing import Any

import numba
import numpy as np
from numba import types

from .compile import compile_callback, digest, inlined
from .intrinsics import call_at, first_lane, pointer, size_of, zeros
from .record import DTYPE
from .stream import stage_for
from .workspace import lay_out

_MOVER = types.void(types.CPointer(numba.from_dtype(DTYPE)), *[types.int64] * 3)


@inlined
def _move(
    p: Any, t: Any, unit: int, units: int, panel: Any, number: int, stage: Any, padding: Any
) -> None:
    """Have a tensor's mover copy some units run by run.

    Runs of all classes are next to each other if they are streamed: then they go by way of a stage.
    """
    first = unit * p.group
    count = min(units * p.group, p.inner - first)
    done = 0
    while done < count:
        o, i = (first + done) // p.run, (first + done) % p.run
        n = min(p.run - i, count - done)
        place = pointer(t.address) + (o * t.outer + i * t.example)
        to = panel + done * number
        if padding is not None:
            call_at(t.mover, (place, t.example, t.vector, n, p.classes, to, p.pitch, padding))
        else:
            if t.stream != 0 and n == p.run:
                place = stage_for(stage, place, t.outer)
            call_at(t.mover, (place, t.example, t.vector, n, p.classes, to, p.pitch))
        done += n


def _make_mover(compute: str, dense: bool, gradient: bool, source: str) -> Any:
    def move(problem: Any, task: int, unit: int, units: int) -> None:
        _ = source
        p = numba.carray(problem, 1)[0]
        zero = zeros(compute, 1)
        number = size_of(first_lane(zero))
        work = lay_out(p, task, zero)
        panels = work.panels
        if gradient:
            _move(p, p.d_logits, unit, units, panels.logits, number, work.stage, None)
        else:
            _move(p, p.logits, unit, units, panels.logits, number, work.stage, np.nan)
            if dense:
                _move(p, p.labels, unit, units, panels.labels, number, work.stage, np.nan)

    return move


@functools.cache
def run_reader(compute: str, dense: bool) -> int:
    """The function that brings units to a panel: those of the logits, and of `dense` labels."""
    name = f"read_runs_{'dense' if dense else 'sparse'}_{compute}"
    return compile_callback(_make_mover(compute, dense, False, digest()), _MOVER, name)


@functools.cache
def run_writer(compute: str) -> int:
    """The function that writes the gradients of units from the panel of their logits."""
    function = _make_mover(compute, False, True, digest())
    return compile_callback(function, _MOVER, f"write_runs_{compute}")
