"""Columns: classes at any stride. Neighbouring threads have neighbouring examples.

A class axis that is not the last is read where it lies, with no transposed copy: a warp reads one
class of many examples. ``WIDTH`` threads share the classes of an example; each goes through its
own twice, the second time mostly from the caches.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import cuda

from .._math.cross_entropy import (
    State,
    dense_gradient,
    dense_loss,
    exp,
    label_gradient,
    smooth,
    sparse_gradient,
    sparse_label_gradient,
    sparse_loss,
)
from .._math.primitives import maximum, widen
from .examples import (
    add_class,
    add_states,
    factor_of,
    finish_wide,
    inverse_of,
    label_of,
    moved,
    no_classes,
    place_of,
    scaled_down,
    start_of,
    wide_state,
    write_loss,
)

DENSE = GRADIENT = LABEL_GRADIENT = False
WIDTH = GROUPS = HELD = SHARED = THREADS = 0
NUMBER: Any = None
ZERO: Any = None
NAN: Any = None
LOWEST: Any = None
MASKED: Any = None
load_logit: Any = None
load_label: Any = None
store_logit: Any = None
store_label: Any = None
_NONE = np.int64(0)
_NO_CLASS = np.int64(-1)


def _merge_threads(state: State, thread: int, column: int) -> State:
    """The state of an example from those of the threads that share it, in their order."""
    shared = cuda.shared.array(SHARED, NUMBER)
    shared[thread] = state.top
    shared[THREADS + thread] = state.count
    shared[2 * THREADS + thread] = state.rest
    if DENSE:
        shared[3 * THREADS + thread] = state.dot
        shared[4 * THREADS + thread] = state.mass
        shared[5 * THREADS + thread] = state.drop
        shared[6 * THREADS + thread] = state.size
    cuda.syncthreads()
    top = LOWEST
    for i in range(WIDTH):
        top = maximum(top, shared[i * GROUPS + column])
    total = no_classes(top)
    dot, mass, drop, size = ZERO, ZERO, ZERO, ZERO
    for i in range(WIDTH):
        at = i * GROUPS + column
        if DENSE:
            dot = shared[3 * THREADS + at]
            mass = shared[4 * THREADS + at]
            drop = shared[5 * THREADS + at]
            size = shared[6 * THREADS + at]
        part = State(
            shared[at], shared[THREADS + at], shared[2 * THREADS + at],
            ZERO, dot, ZERO, mass, ZERO, drop, ZERO, size,
        )  # fmt: skip
        total = add_states(total, moved(part, top))
    return total


def columns(task: Any) -> None:
    """Losses, and gradients if they are wanted, of ``GROUPS`` examples a block."""
    thread = np.int64(cuda.threadIdx.x)
    column, turn = thread % GROUPS, thread // GROUPS
    example = np.int64(cuda.blockIdx.x) * GROUPS + column
    live = example < task.outer * task.inner
    outer, inner = place_of(task, example if live else _NONE)
    classes = task.classes if live else _NONE
    address, step = start_of(task.logits, outer, inner), task.logits.classes
    at, by = start_of(task.labels, outer, inner), task.labels.classes
    label = _NO_CLASS
    if not DENSE and live:
        label = label_of(task, outer, inner)

    x = cuda.local.array(HELD, NUMBER)
    labels = cuda.local.array(HELD, NUMBER)
    state = no_classes(LOWEST)
    for c in range(turn * HELD, classes, WIDTH * HELD):
        top = state.top
        for s in range(HELD):
            x[s] = load_logit(address + (c + s) * step) if c + s < classes else MASKED
        for s in range(HELD):
            if DENSE:
                labels[s] = load_label(at + (c + s) * by) if c + s < classes else ZERO
            top = maximum(top, x[s])
        tile = no_classes(top)
        for s in range(HELD):
            tile, _ = add_class(tile, x[s], labels[s] if DENSE else ZERO, c + s < classes)
        state = add_states(moved(state, top), scaled_down(tile))
    if WIDTH > 1:
        state = _merge_threads(state, thread, column)

    owner, z = turn == 0, NAN
    if not DENSE and label >= 0:
        owner = turn == label // HELD % WIDTH
        if owner:
            z = load_logit(address + label * step)
    if owner and live:
        row = finish_wide(state)
        if DENSE:
            loss = dense_loss(wide_state(state), row, widen(task.keep), widen(task.uniform))
        else:
            loss = sparse_loss(widen(z), row)
        write_loss(task, example, outer, inner, loss)
    if not GRADIENT:
        return

    factor = factor_of(task, outer, inner)
    inverse = inverse_of(state)
    if not DENSE and label < 0:
        inverse = NAN
    keep, uniform = NUMBER(task.keep), NUMBER(task.uniform)
    to, to_step = start_of(task.d_logits, outer, inner), task.d_logits.classes
    log_sum = ZERO
    if LABEL_GRADIENT:
        log_sum = NUMBER(finish_wide(state).log_sum)
        l_to, l_step = start_of(task.d_labels, outer, inner), task.d_labels.classes
    for c in range(turn * HELD, classes, WIDTH * HELD):
        for s in range(HELD):
            x[s] = load_logit(address + (c + s) * step) if c + s < classes else MASKED
            if DENSE:
                labels[s] = load_label(at + (c + s) * by) if c + s < classes else ZERO
        for s in range(HELD):
            if c + s < classes:
                if LABEL_GRADIENT:
                    d_label = label_gradient(x[s], state.top, log_sum, factor)
                    store_label(l_to + (c + s) * l_step, d_label)
                if task.d_logits.address != 0:
                    e = exp(x[s] - state.top)
                    if DENSE:
                        smoothed = smooth(labels[s], keep, uniform)
                        gradient = dense_gradient(e, inverse, smoothed, factor)
                    else:
                        gradient = sparse_gradient(e, inverse, factor)
                    store_logit(to + (c + s) * to_step, gradient)
    if not DENSE and owner and label >= 0:
        p = exp(z - state.top) * inverse
        store_logit(to + label * to_step, sparse_label_gradient(p, factor))
