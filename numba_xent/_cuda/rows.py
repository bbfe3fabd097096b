"""Rows: an example's classes in the registers of a few threads, a warp, a block or a cluster.

Each logit is read once and each gradient written once, whatever the alignment. Nothing is shared
between examples, and what a thread overwrites it has read itself: the gradient may replace the
logits. A row that is too long for the registers of a block lies in those of up to eight blocks,
which read each other's sums (compute capability 9.0).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import cuda

from .._math.cross_entropy import (
    exp_of_class,
    label_gradient,
    sparse_label_gradient,
)
from .._math.exponential import exp
from .._math.primitives import maximum
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
from .spans import cut, edge_class, is_used, owner_of, stride_of
from .states import add_class, add_lanes, lanes_maximum, merge_warps, no_classes, scaled_down

DENSE = SMOOTH = GRADIENT = LABEL_GRADIENT = False
WIDTH = THREADS = GROUPS = HELD = SLOTS = LANES = SIZE = 0
CLUSTER = 1
NUMBER: Any = None
ZERO: Any = None
NAN: Any = None
LOWEST: Any = None
MASKED: Any = None
EXP_SCALE: Any = None
read_logits: Any = None
read_labels: Any = None
write_d_logits: Any = None
write_d_labels: Any = None
load_logit: Any = None
load_label: Any = None
store_logit: Any = None
store_label: Any = None
_WARP = 32
_NONE = np.int64(0)
_NO_CLASS = np.int64(-1)


def rows(task: Any) -> None:
    """Losses, and gradients if they are wanted, of ``GROUPS`` examples a block or one a cluster."""
    thread, block = np.int64(cuda.threadIdx.x), np.int64(cuda.blockIdx.x)
    if CLUSTER > 1:
        lane, example = block % CLUSTER * THREADS + thread, block // CLUSTER
    else:
        lane, example = thread % WIDTH, block * GROUPS + thread // WIDTH
    live = example < task.outer * task.inner
    # Threads without an example go along: a warp exchanges numbers as a whole.
    outer, inner = place_of(task, example if live else _NONE)
    address, step = start_of(task.logits, outer, inner), task.logits.classes
    span = cut(address, task.classes if live else _NONE)
    edge = edge_class(span, lane)

    x = cuda.local.array(SLOTS, NUMBER)
    labels = cuda.local.array(SLOTS, NUMBER)
    read_logits(address + span.head * step, stride_of(step), lane, span.vectors, x)
    if LANES > 1:
        x[HELD] = load_logit(address + edge * step) if edge >= 0 else MASKED
    label = _NO_CLASS
    if DENSE:
        at, by = start_of(task.labels, outer, inner), task.labels.classes
        read_labels(at + span.head * by, stride_of(by), lane, span.vectors, labels)
        if LANES > 1:
            labels[HELD] = load_label(at + edge * by) if edge >= 0 else ZERO
    elif live:
        label = label_of(task, outer, inner)

    top = LOWEST
    for s in range(SLOTS):
        top = maximum(top, x[s])
    top = lanes_maximum(top)
    state = no_classes(top)
    size = 0
    for s in range(SLOTS):
        used = is_used(s, span, lane)
        state, e = add_class(state, x[s], labels[s] if DENSE else ZERO, used)
        if SMOOTH and used:
            size += 1
        if GRADIENT and not LABEL_GRADIENT:
            x[s] = e
    state = add_lanes(scaled_down(state, NUMBER(size)))
    if WIDTH > _WARP:
        state = merge_warps(state, thread // _WARP, thread % _WARP)

    owner, z = lane == 0, NAN
    if not DENSE and label >= 0:
        owner = lane == owner_of(label, span)
        if owner:
            z = load_logit(address + label * step)
    writes = owner and live
    if (LABEL_GRADIENT or not GRADIENT) and writes:
        write_loss(task, example, outer, inner, loss_of(task, state, z))
    if not GRADIENT:
        return

    factor = factor_of(task, outer, inner)
    inverse = inverse_of(state)
    if not DENSE and label < 0:
        inverse = NAN
    if LABEL_GRADIENT:
        log_sum = NUMBER(finish_wide(state).log_sum)
        y = cuda.local.array(SLOTS, NUMBER)
        for s in range(SLOTS):
            y[s] = label_gradient(x[s], state.top, log_sum, factor)
            x[s] = exp_of_class(x[s], state.top)[1]
        at, by = start_of(task.d_labels, outer, inner), task.d_labels.classes
        write_d_labels(at + span.head * by, stride_of(by), lane, span.vectors, y)
        if LANES > 1 and edge >= 0:
            store_label(at + edge * by, y[HELD])
        top = state.top
        if task.d_logits.address == 0:
            return
    # Exponentials are those below the maximum of the own warp.
    to_probability = inverse * EXP_SCALE * exp(top - state.top)
    for s in range(SLOTS):
        x[s] = gradient_of(task, x[s], to_probability, labels[s] if DENSE else ZERO, factor)
    at, by = start_of(task.d_logits, outer, inner), task.d_logits.classes
    write_d_logits(at + span.head * by, stride_of(by), lane, span.vectors, x)
    if LANES > 1 and edge >= 0:
        store_logit(at + edge * by, x[HELD])
    if not DENSE and owner and label >= 0:
        p = exp(z - state.top) * inverse
        store_logit(at + label * by, sparse_label_gradient(p, factor))
    # At last, when the registers of the classes are free.
    if not LABEL_GRADIENT and writes:
        write_loss(task, example, outer, inner, loss_of(task, state, z))
