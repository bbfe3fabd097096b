"""Rows: an example's classes in the registers of a few threads, a warp or a block.

Each logit is read once and each gradient written once, whatever the alignment: up to a vector's
worth of classes at either end are two numbers more for each thread. Nothing is shared between
examples, and what a thread overwrites it has read itself: the gradient may replace the logits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import cuda

from .._math.constants import constants
from .._math.cross_entropy import (
    dense_gradient,
    dense_loss,
    exp,
    exp_of_class,
    label_gradient,
    smooth,
    sparse_gradient,
    sparse_label_gradient,
    sparse_loss,
)
from .._math.primitives import maximum, widen
from .examples import (
    add_class,
    add_lanes,
    factor_of,
    finish_wide,
    inverse_of,
    label_of,
    lanes_maximum,
    merge_warps,
    no_classes,
    place_of,
    scaled_down,
    start_of,
    wide_state,
    write_loss,
)
from .spans import (
    cut,
    edge_class,
    is_used,
    owner_of,
    read_label_edges,
    read_logit_edges,
    write_label_edges,
    write_logit_edges,
)

DENSE = GRADIENT = LABEL_GRADIENT = False
WIDTH = GROUPS = HELD = SLOTS = 0
NUMBER: Any = None
ZERO: Any = None
NAN: Any = None
LOWEST: Any = None
read_logits: Any = None
read_labels: Any = None
write_d_logits: Any = None
write_d_labels: Any = None
load_logit: Any = None
store_logit: Any = None
_WARP = 32
_NONE = np.int64(0)
_NO_CLASS = np.int64(-1)


def rows(task: Any) -> None:
    """Losses, and gradients if they are wanted, of ``GROUPS`` examples a block."""
    thread = np.int64(cuda.threadIdx.x)
    lane = thread % WIDTH
    example = np.int64(cuda.blockIdx.x) * GROUPS + thread // WIDTH
    live = example < task.outer * task.inner
    # Threads without an example go along: a warp exchanges numbers as a whole.
    outer, inner = place_of(task, example if live else _NONE)
    address = start_of(task.logits, outer, inner)
    step = task.logits.classes
    span = cut(address, step, task.classes if live else _NONE)

    x = cuda.local.array(SLOTS, NUMBER)
    read_logits(address + span.head * step, step, lane, span.vectors, x)
    read_logit_edges(address, step, span, lane, x, HELD)
    labels = cuda.local.array(SLOTS, NUMBER)
    label = _NO_CLASS
    if DENSE:
        at = start_of(task.labels, outer, inner)
        by = task.labels.classes
        read_labels(at + span.head * by, by, lane, span.vectors, labels)
        read_label_edges(at, by, span, lane, labels, HELD)
    elif live:
        label = label_of(task, outer, inner)

    top = LOWEST
    for s in range(SLOTS):
        top = maximum(top, x[s])
    top = lanes_maximum(top)
    state = no_classes(top)
    for s in range(SLOTS):
        used = edge_class(s - HELD, span, lane) >= 0 if s >= HELD else is_used(s, span, lane)
        state, e = add_class(state, x[s], labels[s] if DENSE else ZERO, used)
        if GRADIENT and not LABEL_GRADIENT:
            x[s] = e
    state = add_lanes(scaled_down(state))
    if WIDTH > _WARP:
        state = merge_warps(state, thread // _WARP, thread % _WARP)

    owner = lane == 0
    z = NAN
    if not DENSE and label >= 0:
        owner = lane == owner_of(label, span, _NONE)
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
    if LABEL_GRADIENT:
        row = finish_wide(state)
        log_sum = NUMBER(row.log_sum)
        y = cuda.local.array(SLOTS, NUMBER)
        for s in range(SLOTS):
            y[s] = label_gradient(x[s], state.top, log_sum, factor)
        at = start_of(task.d_labels, outer, inner)
        by = task.d_labels.classes
        write_d_labels(at + span.head * by, by, lane, span.vectors, y)
        write_label_edges(at, by, span, lane, y, HELD)
        for s in range(SLOTS):
            x[s] = exp_of_class(x[s], state.top)[1]
        top = state.top
    if task.d_logits.address == 0:
        return
    # Exponentials are those below the maximum of the own warp.
    to_probability = inverse * constants(top).scale_down * exp(top - state.top)
    keep, uniform = NUMBER(task.keep), NUMBER(task.uniform)
    for s in range(SLOTS):
        if DENSE:
            x[s] = dense_gradient(x[s], to_probability, smooth(labels[s], keep, uniform), factor)
        else:
            x[s] = sparse_gradient(x[s], to_probability, factor)
    at = start_of(task.d_logits, outer, inner)
    by = task.d_logits.classes
    write_d_logits(at + span.head * by, by, lane, span.vectors, x)
    write_logit_edges(at, by, span, lane, x, HELD)
    if not DENSE and owner and label >= 0:
        p = exp(z - state.top) * inverse
        store_logit(at + label * by, sparse_label_gradient(p, factor))
