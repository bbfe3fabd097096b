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


def _add_example(
    i: int, x: Any, labels: Any, tops: Any, sums: Any, left: int, shared: Any, place: int
) -> None:
    """Add a tile to the i-th of a thread's examples; if it is all, leave the warp's state."""
    state = no_classes(tops[i])
    for k in range(VECTORS):
        s = k * LANES + i
        state, e = add_class(state, x[s], labels[s] if DENSE else ZERO, k * WIDTH < left)
        if ONCE and GRADIENT and not LABEL_GRADIENT:
            # The logits are not needed any more.
            x[s] = e
    state = scaled_down(state, NUMBER(_used(left)))
    if ONCE:
        _leave(add_lanes(state), shared, place + i * COLUMNS)
    else:
        state = add_states(moved(take_state(sums, i, LANES), tops[i]), state)
        put_state(sums, i, LANES, state)


def _add_examples(
    x: Any, labels: Any, tops: Any, sums: Any, left: int, shared: Any, place: int
) -> None:
    """Add a tile to all of them."""
    # One after the other, and not in a loop: only then does the assembler see that one is done.
    _add_example(0, x, labels, tops, sums, left, shared, place)
    if LANES > 1:
        _add_example(1, x, labels, tops, sums, left, shared, place)
    if LANES > 2:
        _add_example(2, x, labels, tops, sums, left, shared, place)
        _add_example(3, x, labels, tops, sums, left, shared, place)
    if LANES > 4:
        _add_example(4, x, labels, tops, sums, left, shared, place)
        _add_example(5, x, labels, tops, sums, left, shared, place)
        _add_example(6, x, labels, tops, sums, left, shared, place)
        _add_example(7, x, labels, tops, sums, left, shared, place)


def _leave(state: State, shared: Any, at: int) -> None:
    """Leave the state of a warp in shared memory, by one of the four threads that have it."""
    if np.int64(cuda.threadIdx.x) % _WARP < COLUMNS:
        put_state(shared, at, PLACES, state)


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


def _finish(
    j: int, task: Any, example: int, outer: int, inner: int, shared: Any, at: int, writes: bool,
    z: Any, chosen: Any, own: Any,
) -> None:  # fmt: skip
    """The loss of the j-th of a thread's own examples, and what its gradients are made of."""
    state = _merged(shared, at + j * COLUMNS)
    if writes:
        write_loss(task, example + j, outer, inner + j, loss_of(task, state, z[j]))
    if GRADIENT:
        tops, inverses, factors, log_sums = own
        tops[j] = state.top
        inverses[j] = inverse_of(state) * EXP_SCALE
        if not DENSE and chosen[j] < 0:
            inverses[j] = NAN
        factors[j] = factor_of(task, outer, inner + j)
        if LABEL_GRADIENT:
            log_sums[j] = NUMBER(finish_wide(state).log_sum)


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
        _add_examples(x, labels, tops, sums, left, shared, place)
    else:
        for i in range(LANES):
            put_state(sums, i, LANES, no_classes(LOWEST))
        for first in range(turn, classes, WIDTH * VECTORS):
            read_logits(address, step, first, classes, x)
            if DENSE:
                read_labels(at, by, first, classes, labels)
            left = to_int32(classes - first)
            _add_tops(x, tops)
            _add_examples(x, labels, tops, sums, left, shared, place)
        for i in range(LANES):
            _leave(merge_lanes(take_state(sums, i, LANES)), shared, place + i * COLUMNS)
    cuda.syncthreads()

    own_tops = cuda.local.array(OWN, NUMBER)
    own_inverses = cuda.local.array(OWN, NUMBER)
    own_factors = cuda.local.array(OWN, NUMBER)
    own_log_sums = cuda.local.array(OWN, NUMBER)
    own = (own_tops, own_inverses, own_factors, own_log_sums)
    writes = live and turn < OWNERS
    from_warp = (place if PARTS == 1 else column) + first_own * COLUMNS
    mine = inner + first_own
    # No loop here either.
    _finish(0, task, example + first_own, outer, mine, shared, from_warp, writes, z, chosen, own)
    if OWN > 1:
        _finish(
            1, task, example + first_own, outer, mine, shared, from_warp, writes, z, chosen, own
        )
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
