"""Columns: classes at any stride. Neighbouring threads have neighbouring examples.

A class axis that is not the last is read where it lies, with no transposed copy. A thread has
``LANES`` examples side by side, 16 bytes of each class, or a single example where they lie in any
other way. Eight neighbours read what is side by side, and ``WIDTH`` threads share the classes of an
example: four of a warp, and as many warps as it takes. Where their registers hold all classes,
logits are read once; else twice, the second time mostly from the caches.

What the threads of a warp have added up they leave in shared memory. From there on each of the four
has examples of its own, for which it merges what the warps have left and finds what the gradients
are scaled by, which the others get by shuffles.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import cuda
from numba.cuda import types

from .._math.cross_entropy import State, dense_gradient, exp_of_class, label_gradient
from .._math.exponential import exp
from .._math.primitives import maximum, where
from .device import FULL_WARP, to_int32
from .examples import (
    factor_of,
    finish_wide,
    gradient_of,
    inverse_of,
    label_of,
    loss_of,
    place_of,
    start_of,
    write_loss,
)
from .states import (
    add_class,
    add_lanes,
    add_states,
    lanes_maximum,
    merge_lanes,
    moved,
    no_classes,
    put_state,
    scaled_down,
    take_state,
)

DENSE = SMOOTH = GRADIENT = LABEL_GRADIENT = ONCE = False
WIDTH = THREADS = HELD = VECTORS = LANES = SHARED = PLACES = SUMS = 0
OWN = OWNERS = PARTS = 1
"""How many examples a thread finishes, how many of four do so, and how many warps share one."""
NUMBER: Any = None
ZERO: Any = None
ONE: Any = None
NAN: Any = None
LOWEST: Any = None
EXP_SCALE: Any = None
read_logits: Any = None
read_labels: Any = None
write_d_logits: Any = None
write_d_labels: Any = None
load_logit: Any = None
_WARP = 32
COLUMNS = 8
"""How many neighbours a warp has."""
TURNS = 4
"""How many threads of a warp share an example."""
_NONE = np.int64(0)
_NO_CLASS = np.int64(-1)


def _used(left: int) -> int:
    """How many of the classes of a tile there are."""
    size = 0
    if SMOOTH:
        for k in range(VECTORS):
            size += 1 if k * WIDTH < left else 0
    return size


def _add_tops(x: Any, tops: Any) -> None:
    """Raise the maxima of a thread's examples to those of a tile."""
    # Not a loop in a loop, which compilers for new GPUs do not unroll: arrays would be in memory.
    for s in range(HELD):
        i = s % LANES
        tops[i] = maximum(tops[i], x[s])


def _add_tile(x: Any, labels: Any, sums: Any, left: int) -> None:
    """Add a tile to states without classes; exponentials replace logits that are held."""
    for s in range(HELD):
        i = s % LANES
        used = s // LANES * WIDTH < left
        state, e = add_class(take_state(sums, i, LANES), x[s], labels[s] if DENSE else ZERO, used)
        put_state(sums, i, LANES, state)
        if ONCE and GRADIENT and not LABEL_GRADIENT:
            x[s] = e


def _add_held(
    x: Any,
    labels: Any,
    tops: Any,
    left: int,
    size: Any,
    shared: Any,
    place: int,
    i: int,
    keep: bool,
) -> None:
    """Leave the state of the i-th of a thread's examples; exponentials replace logits."""
    state = no_classes(tops[i])
    for k in range(VECTORS):
        s = k * LANES + i
        state, e = add_class(state, x[s], labels[s] if DENSE else ZERO, k * WIDTH < left)
        if GRADIENT and not LABEL_GRADIENT:
            x[s] = e
    state = add_lanes(scaled_down(state, size))
    if keep:
        put_state(shared, place + i * COLUMNS, PLACES, state)


def _merged(shared: Any, at: int) -> State:
    """The state of an example from those of the warps that share it."""
    if PARTS == 1:
        return take_state(shared, at, PLACES)
    top = LOWEST
    for part in range(PARTS):
        top = maximum(top, shared[np.uint64(at + part * LANES * COLUMNS)])
    total = no_classes(top)
    for part in range(PARTS):
        there = take_state(shared, at + part * LANES * COLUMNS, PLACES)
        total = add_states(total, moved(there, top))
    return total


def _from_owners(own: Any, column: int, everyone: Any) -> None:
    """What each of four threads has found for its own examples, in all of them."""
    for i in range(LANES):
        source = column + i // OWN * COLUMNS
        everyone[i] = cuda.shfl_sync(FULL_WARP, own[i % OWN], source)


def columns(task: Any) -> None:
    """Losses, and gradients if they are wanted, of some examples a block."""
    thread, block = np.int64(cuda.threadIdx.x), np.int64(cuda.blockIdx.x)
    warp, lane = thread // _WARP, thread % _WARP
    column, quarter = lane % COLUMNS, lane // COLUMNS
    unit = block * (THREADS // (COLUMNS * WIDTH)) + thread // (COLUMNS * WIDTH)
    example = (unit * COLUMNS + column) * LANES
    turn = quarter
    if PARTS > 1:
        turn += warp * TURNS
    live = example < task.outer * task.inner
    outer, inner = place_of(task, example if live else _NONE)
    classes = task.classes if live else _NONE
    address, step = start_of(task.logits, outer, inner), task.logits.classes
    at, by = start_of(task.labels, outer, inner), task.labels.classes
    first_own = quarter % OWNERS * OWN

    z = cuda.local.array(OWN, NUMBER)
    chosen = cuda.local.array(OWN, types.int32)
    for j in range(OWN):
        label = _NO_CLASS
        if not DENSE and live:
            label = label_of(task, outer, inner + first_own + j)
        z[j], chosen[j] = NAN, to_int32(label)
        # Nobody has overwritten it yet.
        if not DENSE and label >= 0 and turn < TURNS:
            z[j] = load_logit(start_of(task.logits, outer, inner + first_own + j) + label * step)

    x = cuda.local.array(HELD, NUMBER)
    labels = cuda.local.array(HELD, NUMBER)
    tops = cuda.local.array(LANES, NUMBER)
    sums = cuda.local.array(SUMS, NUMBER)
    shared = cuda.shared.array(SHARED, NUMBER)
    place = warp * (LANES * COLUMNS) + column
    for i in range(LANES):
        tops[i] = LOWEST
    if ONCE:
        read_logits(address, step, turn, classes, x)
        if DENSE:
            read_labels(at, by, turn, classes, labels)
        left = to_int32(classes - turn)
        _add_tops(x, tops)
        for i in range(LANES):
            # An infinite label must not be alone with its own maximum.
            tops[i] = lanes_maximum(tops[i])
        size = NUMBER(_used(left))
        keep = quarter == 0
        # One after the other, and no loop: only then does the assembler need the registers of one.
        _add_held(x, labels, tops, left, size, shared, place, 0, keep)
        if LANES > 1:
            _add_held(x, labels, tops, left, size, shared, place, 1, keep)
        if LANES > 2:
            _add_held(x, labels, tops, left, size, shared, place, 2, keep)
            _add_held(x, labels, tops, left, size, shared, place, 3, keep)
        if LANES > 4:
            _add_held(x, labels, tops, left, size, shared, place, 4, keep)
            _add_held(x, labels, tops, left, size, shared, place, 5, keep)
            _add_held(x, labels, tops, left, size, shared, place, 6, keep)
            _add_held(x, labels, tops, left, size, shared, place, 7, keep)
    else:
        tile = cuda.local.array(SUMS, NUMBER)
        for i in range(LANES):
            put_state(sums, i, LANES, no_classes(LOWEST))
        for first in range(turn, classes, WIDTH * VECTORS):
            read_logits(address, step, first, classes, x)
            if DENSE:
                read_labels(at, by, first, classes, labels)
            left = to_int32(classes - first)
            _add_tops(x, tops)
            for i in range(LANES):
                put_state(tile, i, LANES, no_classes(tops[i]))
            _add_tile(x, labels, tile, left)
            size = NUMBER(_used(left))
            for i in range(LANES):
                state = moved(take_state(sums, i, LANES), tops[i])
                new = scaled_down(take_state(tile, i, LANES), size)
                put_state(sums, i, LANES, add_states(state, new))
        for i in range(LANES):
            state = merge_lanes(take_state(sums, i, LANES))
            if quarter == 0:
                put_state(shared, place + i * COLUMNS, PLACES, state)
    cuda.syncthreads()

    own_tops = cuda.local.array(OWN, NUMBER)
    own_inverses = cuda.local.array(OWN, NUMBER)
    own_factors = cuda.local.array(OWN, NUMBER)
    own_log_sums = cuda.local.array(OWN, NUMBER)
    for j in range(OWN):
        i = first_own + j
        state = _merged(shared, (place if PARTS == 1 else column) + i * COLUMNS)
        if live and turn < OWNERS:
            write_loss(task, example + i, outer, inner + i, loss_of(task, state, z[j]))
        if GRADIENT:
            own_tops[j] = state.top
            own_inverses[j] = inverse_of(state) * EXP_SCALE
            if not DENSE and chosen[j] < 0:
                own_inverses[j] = NAN
            own_factors[j] = factor_of(task, outer, inner + i)
            if LABEL_GRADIENT:
                own_log_sums[j] = NUMBER(finish_wide(state).log_sum)
    if not GRADIENT:
        return

    maxima = cuda.local.array(LANES, NUMBER)
    inverses = cuda.local.array(LANES, NUMBER)
    factors = cuda.local.array(LANES, NUMBER)
    log_sums = cuda.local.array(LANES, NUMBER)
    hot = cuda.local.array(LANES, types.int32)
    _from_owners(own_tops, column, maxima)
    _from_owners(own_inverses, column, inverses)
    _from_owners(own_factors, column, factors)
    if LABEL_GRADIENT:
        _from_owners(own_log_sums, column, log_sums)
    if not DENSE:
        _from_owners(chosen, column, hot)
    if ONCE and not LABEL_GRADIENT:
        for i in range(LANES):
            # Exponentials are those below the maximum of the own warp.
            inverses[i] = inverses[i] * exp(tops[i] - maxima[i])
    to, to_step = start_of(task.d_logits, outer, inner), task.d_logits.classes
    l_to, l_step = start_of(task.d_labels, outer, inner), task.d_labels.classes
    y = cuda.local.array(HELD, NUMBER)
    # One turn if all is held.
    for first in range(turn, classes, WIDTH * VECTORS):
        if not ONCE:
            read_logits(address, step, first, classes, x)
            if DENSE:
                read_labels(at, by, first, classes, labels)
        if LABEL_GRADIENT:
            for s in range(HELD):
                i = s % LANES
                y[s] = label_gradient(x[s], maxima[i], log_sums[i], factors[i])
            write_d_labels(l_to, l_step, first, classes, y)
        if task.d_logits.address != 0:
            for s in range(HELD):
                i = s % LANES
                e = x[s]
                if not ONCE or LABEL_GRADIENT:
                    e = exp_of_class(x[s], maxima[i])[1]
                if DENSE:
                    y[s] = gradient_of(task, e, inverses[i], labels[s], factors[i])
                else:
                    is_label = hot[i] - to_int32(first) == s // LANES * WIDTH
                    label = where(is_label, ONE, ZERO)
                    y[s] = dense_gradient(e, inverses[i], label, factors[i])
            write_d_logits(to, to_step, first, classes, y)
