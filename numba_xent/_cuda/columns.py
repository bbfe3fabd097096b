"""Columns: classes at any stride. Neighbouring threads have neighbouring examples.

A class axis that is not the last is read where it lies, with no transposed copy. A thread has
``LANES`` examples side by side, 16 bytes of each class, or a single example where they lie in any
other way. Eight neighbours read what is side by side, and ``WIDTH`` threads share the classes of an
example: four of a warp, and as many warps as it takes. Where their registers hold all classes,
logits are read once; else twice, the second time mostly from the caches.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import cuda
from numba.cuda import types

from .._math.cross_entropy import (
    State,
    exp_of_class,
    label_gradient,
    sparse_label_gradient,
)
from .._math.primitives import maximum, where
from .device import to_int32
from .examples import (
    add_class,
    add_states,
    factor_of,
    finish_wide,
    gradient_of,
    inverse_of,
    label_of,
    lanes_maximum,
    lanes_sum,
    loss_of,
    merge_lanes,
    merged,
    moved,
    no_classes,
    place_of,
    put_state,
    scaled_down,
    start_of,
    take_state,
    write_loss,
)

DENSE = SMOOTH = GRADIENT = LABEL_GRADIENT = ONCE = False
WIDTH = THREADS = HELD = VECTORS = LANES = WARPS = SHARED = PLACES = SUMS = 0
NUMBER: Any = None
ZERO: Any = None
NAN: Any = None
LOWEST: Any = None
EXP_SCALE: Any = None
read_logits: Any = None
read_labels: Any = None
write_d_logits: Any = None
write_d_labels: Any = None
_WARP = 32
COLUMNS = 8
"""How many neighbours a warp has."""
TURNS = 4
"""How many threads of a warp share an example."""
_NONE = np.int64(0)


def _add_tile(
    x: Any, labels: Any, chosen: Any, sums: Any, z: Any, first: int, left: int, begins: bool
) -> None:
    """Add a tile to the states of a thread's examples; find the logits of their labels."""
    size = 0
    if SMOOTH:
        for k in range(VECTORS):
            size += 1 if k * WIDTH < left else 0
    for i in range(LANES):
        top = LOWEST if begins else sums[i]
        for k in range(VECTORS):
            top = maximum(top, x[k * LANES + i])
        if begins:
            # An infinite label must not be alone with its own maximum.
            top = lanes_maximum(top)
        tile = no_classes(top)
        for k in range(VECTORS):
            s = k * LANES + i
            tile, _ = add_class(tile, x[s], labels[s] if DENSE else ZERO, k * WIDTH < left)
            if not DENSE:
                z[i] = where(first + to_int32(k * WIDTH) == chosen[i], x[s], z[i])
        tile = scaled_down(tile, NUMBER(size))
        if not begins:
            tile = add_states(moved(take_state(sums, i, LANES), top), tile)
        put_state(sums, i, LANES, tile)


def _merge(sums: Any, z: Any, warp: int, lane: int) -> None:
    """Make the states of a thread's examples those of all threads that share them."""
    for i in range(LANES):
        put_state(sums, i, LANES, merge_lanes(take_state(sums, i, LANES)))
        if not DENSE:
            z[i] = lanes_sum(z[i])
    if WIDTH > TURNS:
        shared = cuda.shared.array(SHARED, NUMBER)
        column, turn = lane % COLUMNS, lane // COLUMNS
        if turn == 0:
            for i in range(LANES):
                at = (warp * LANES + i) * COLUMNS + column
                put_state(shared, at, PLACES, take_state(sums, i, LANES))
                if not DENSE:
                    shared[np.uint64(3 * PLACES + at)] = z[i]
        cuda.syncthreads()
        for i in range(LANES):
            at = (turn * LANES + i) * COLUMNS + column
            total = take_state(shared, at, PLACES)
            if not DENSE:
                z[i] = shared[np.uint64(3 * PLACES + at)]
            for other in range(turn + TURNS, WARPS, TURNS):
                at = (other * LANES + i) * COLUMNS + column
                total = merged(total, take_state(shared, at, PLACES))
                if not DENSE:
                    z[i] += shared[np.uint64(3 * PLACES + at)]
            put_state(sums, i, LANES, merge_lanes(total))
            if not DENSE:
                z[i] = lanes_sum(z[i])


def _write_loss(
    task: Any, sums: Any, z: Any, chosen: Any, first: int, i: int, place: tuple[int, int, int]
) -> None:
    """The loss of example i of a thread, one of those from `first` on, in one of four threads."""
    state, logit, label = take_state(sums, first, LANES), z[first], chosen[first]
    # A dynamic index would put the arrays into memory.
    for other in range(1, min(TURNS, LANES)):
        here = i == first + other
        there = take_state(sums, first + other, LANES)
        state = State(
            where(here, there.top, state.top),
            where(here, there.count, state.count),
            where(here, there.rest, state.rest),
            ZERO,
            where(here, there.dot, state.dot),
            where(here, there.dot_low, state.dot_low),
            where(here, there.mass, state.mass),
            ZERO,
            where(here, there.drop, state.drop),
            where(here, there.drop_low, state.drop_low),
            where(here, there.size, state.size),
        )
        logit = where(here, z[first + other], logit)
        label = chosen[first + other] if here else label
    if i < first + min(TURNS, LANES):
        loss = loss_of(task, state, logit if DENSE or label >= 0 else NAN)
        write_loss(task, place[0] + i, place[1], place[2] + i, loss)


def columns(task: Any) -> None:
    """Losses, and gradients if they are wanted, of some examples a block."""
    thread, block = np.int64(cuda.threadIdx.x), np.int64(cuda.blockIdx.x)
    warp, lane = thread // _WARP, thread % _WARP
    unit = block * (THREADS // (COLUMNS * WIDTH)) + thread // (COLUMNS * WIDTH)
    example = (unit * COLUMNS + lane % COLUMNS) * LANES
    turn = lane // COLUMNS
    if WIDTH > TURNS:
        turn += warp * TURNS
    live = example < task.outer * task.inner
    outer, inner = place_of(task, example if live else _NONE)
    classes = task.classes if live else _NONE
    address, step = start_of(task.logits, outer, inner), task.logits.classes
    at, by = start_of(task.labels, outer, inner), task.labels.classes

    x = cuda.local.array(HELD, NUMBER)
    labels = cuda.local.array(HELD, NUMBER)
    sums = cuda.local.array(SUMS, NUMBER)
    z = cuda.local.array(LANES, NUMBER)
    chosen = cuda.local.array(LANES, types.int32)
    for i in range(LANES):
        z[i], chosen[i] = ZERO, to_int32(-1)
        if not DENSE and live:
            chosen[i] = to_int32(label_of(task, outer, inner + i))
    if ONCE:
        read_logits(address, step, turn, classes, x)
        if DENSE:
            read_labels(at, by, turn, classes, labels)
        left = to_int32(classes - turn)
        _add_tile(x, labels, chosen, sums, z, to_int32(turn), left, True)
    else:
        for i in range(LANES):
            put_state(sums, i, LANES, no_classes(LOWEST))
        for first in range(turn, classes, WIDTH * VECTORS):
            read_logits(address, step, first, classes, x)
            if DENSE:
                read_labels(at, by, first, classes, labels)
            left = to_int32(classes - first)
            _add_tile(x, labels, chosen, sums, z, to_int32(first), left, False)
    _merge(sums, z, warp, lane)
    if live and turn < TURNS:
        place = (example, outer, inner)
        _write_loss(task, sums, z, chosen, 0, turn, place)
        if LANES > TURNS:
            _write_loss(task, sums, z, chosen, TURNS, TURNS + turn, place)
    if not GRADIENT:
        return

    factors = cuda.local.array(LANES, NUMBER)
    inverses = cuda.local.array(LANES, NUMBER)
    log_sums = cuda.local.array(LANES, NUMBER)
    for i in range(LANES):
        factors[i] = factor_of(task, outer, inner + i)
        state = take_state(sums, i, LANES)
        inverses[i] = inverse_of(state) * EXP_SCALE
        if not DENSE and chosen[i] < 0:
            inverses[i] = NAN
        if LABEL_GRADIENT:
            log_sums[i] = NUMBER(finish_wide(state).log_sum)
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
                y[s] = label_gradient(x[s], sums[i], log_sums[i], factors[i])
            write_d_labels(l_to, l_step, first, classes, y)
        if task.d_logits.address != 0:
            for s in range(HELD):
                i = s % LANES
                _, e = exp_of_class(x[s], sums[i])
                label = labels[s] if DENSE else ZERO
                y[s] = gradient_of(task, e, inverses[i], label, factors[i])
                at_label = to_int32(first) + to_int32(s // LANES * WIDTH) == chosen[i]
                if not DENSE and at_label:
                    y[s] = sparse_label_gradient(e * inverses[i], factors[i])
            write_d_logits(to, to_step, first, classes, y)
