"""Long rows in parts: several blocks for one example, as many classes as there may be.

The first kernel leaves the state of each part in memory, and with it the label's logit, which the
gradient may overwrite. The second one merges the states of a row, once in each warp, and computes
loss and gradient. Logits are read twice.
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
    merge_lanes,
    merge_warps,
    moved,
    no_classes,
    place_of,
    scaled_down,
    start_of,
    wide_state,
    write_loss,
)
from .spans import (
    Span,
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
WIDTH = HELD = VECTORS = LANES = RAW_SIZE = 0
NUMBER: Any = None
ZERO: Any = None
NAN: Any = None
LOWEST: Any = None
read_logits: Any = None
read_labels: Any = None
write_d_logits: Any = None
write_d_labels: Any = None
load_logit: Any = None
load_number: Any = None
store_number: Any = None
store_logit: Any = None
_WARP = 32
_EDGES = 2
_NO_CLASS = np.int64(-1)
FIELDS = 8
"""Numbers of a part's state in memory; the last is the label's logit, in the first part."""


def _vectors_of(part: int, parts: int, span: Span) -> tuple[int, Span]:
    """The first vector of a part, and the span as if its last vector were the last of all."""
    share = (span.vectors + parts - 1) // parts
    first = min(part * share, span.vectors)
    return first, Span(span.head, min(first + share, span.vectors), span.tail, span.classes)


def _add_tile(
    state: State, x: Any, labels: Any, n: int, span: Span, first: int, edge: bool
) -> State:
    """Add a tile: the vectors from `first` on, or the classes at the edges."""
    top = state.top
    for s in range(n):
        top = maximum(top, x[s])
    tile = no_classes(top)
    for s in range(n):
        used = edge_class(s, span, first) >= 0 if edge else is_used(s, span, first)
        tile, _ = add_class(tile, x[s], labels[s] if DENSE else ZERO, used)
    return add_states(moved(state, top), scaled_down(tile))


def split(task: Any) -> None:
    """The state of each part of each row."""
    lane = np.int64(cuda.threadIdx.x)
    example, part = np.int64(cuda.blockIdx.x), np.int64(cuda.blockIdx.y)
    outer, inner = place_of(task, example)
    address, step = start_of(task.logits, outer, inner), task.logits.classes
    at, by = start_of(task.labels, outer, inner), task.labels.classes
    whole = cut(address, step, task.classes)
    first, span = _vectors_of(part, task.parts, whole)
    x = cuda.local.array(HELD, NUMBER)
    labels = cuda.local.array(HELD, NUMBER)
    state = no_classes(LOWEST)
    if part == 0:
        edges = cuda.local.array(_EDGES, NUMBER)
        edge_labels = cuda.local.array(_EDGES, NUMBER)
        read_logit_edges(address, step, whole, lane, edges, 0)
        if DENSE:
            read_label_edges(at, by, whole, lane, edge_labels, 0)
        state = _add_tile(state, edges, edge_labels, _EDGES, whole, lane, True)
    for begin in range(first, span.vectors, WIDTH * VECTORS):
        read_logits(address + span.head * step, step, begin + lane, span.vectors, x)
        if DENSE:
            read_labels(at + span.head * by, by, begin + lane, span.vectors, labels)
        state = _add_tile(state, x, labels, HELD, span, begin + lane, False)
    state = merge_warps(merge_lanes(state), lane // _WARP, lane % _WARP)
    if lane == 0:
        to = task.states + (example * task.parts + part) * FIELDS * RAW_SIZE
        store_number(to, state.top)
        store_number(to + RAW_SIZE, state.count)
        store_number(to + 2 * RAW_SIZE, state.rest)
        store_number(to + 3 * RAW_SIZE, state.dot)
        store_number(to + 4 * RAW_SIZE, state.mass)
        store_number(to + 5 * RAW_SIZE, state.drop)
        store_number(to + 6 * RAW_SIZE, state.size)
        if not DENSE and part == 0:
            label = label_of(task, outer, inner)
            z = load_logit(address + label * step) if label >= 0 else NAN
            store_number(to + 7 * RAW_SIZE, z)


def _merged(task: Any, example: int, lane: int) -> State:
    """The state of a row from those of its parts, of which there are at most as many as lanes."""
    top, count, rest, dot, mass, drop, size = LOWEST, ZERO, ZERO, ZERO, ZERO, ZERO, ZERO
    if lane < task.parts:
        at = task.states + (example * task.parts + lane) * FIELDS * RAW_SIZE
        top = load_number(at)
        count = load_number(at + RAW_SIZE)
        rest = load_number(at + 2 * RAW_SIZE)
        dot = load_number(at + 3 * RAW_SIZE)
        mass = load_number(at + 4 * RAW_SIZE)
        drop = load_number(at + 5 * RAW_SIZE)
        size = load_number(at + 6 * RAW_SIZE)
    return merge_lanes(State(top, count, rest, ZERO, dot, ZERO, mass, ZERO, drop, ZERO, size))


def _gradients(
    x: Any, labels: Any, n: int, top: Any, to_probability: Any, task: Any, factor: Any
) -> None:
    """Turn logits into gradients."""
    keep, uniform = NUMBER(task.keep), NUMBER(task.uniform)
    for s in range(n):
        e = exp(x[s] - top)
        if DENSE:
            x[s] = dense_gradient(e, to_probability, smooth(labels[s], keep, uniform), factor)
        else:
            x[s] = sparse_gradient(e, to_probability, factor)


def finish_split(task: Any) -> None:
    """The loss of each row, and the gradients of each part."""
    lane = np.int64(cuda.threadIdx.x)
    example, part = np.int64(cuda.blockIdx.x), np.int64(cuda.blockIdx.y)
    outer, inner = place_of(task, example)
    state = _merged(task, example, lane % _WARP)
    label, z = _NO_CLASS, NAN
    if not DENSE:
        label = label_of(task, outer, inner)
        z = load_number(task.states + (example * task.parts * FIELDS + 7) * RAW_SIZE)
    if lane == 0 and part == 0:
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
    address, step = start_of(task.logits, outer, inner), task.logits.classes
    at, by = start_of(task.labels, outer, inner), task.labels.classes
    to, to_step = start_of(task.d_logits, outer, inner), task.d_logits.classes
    whole = cut(address, step, task.classes)
    first, span = _vectors_of(part, task.parts, whole)
    log_sum = ZERO
    if LABEL_GRADIENT:
        log_sum = NUMBER(finish_wide(state).log_sum)
        l_to, l_step = start_of(task.d_labels, outer, inner), task.d_labels.classes
    x = cuda.local.array(HELD, NUMBER)
    y = cuda.local.array(HELD, NUMBER)
    labels = cuda.local.array(HELD, NUMBER)
    if part == 0:
        edges = cuda.local.array(_EDGES, NUMBER)
        edge_labels = cuda.local.array(_EDGES, NUMBER)
        read_logit_edges(address, step, whole, lane, edges, 0)
        if DENSE:
            read_label_edges(at, by, whole, lane, edge_labels, 0)
        if LABEL_GRADIENT:
            for s in range(_EDGES):
                y[s] = label_gradient(edges[s], state.top, log_sum, factor)
            write_label_edges(l_to, l_step, whole, lane, y, 0)
        if task.d_logits.address != 0:
            _gradients(edges, edge_labels, _EDGES, state.top, inverse, task, factor)
            write_logit_edges(to, to_step, whole, lane, edges, 0)
    for begin in range(first, span.vectors, WIDTH * VECTORS):
        read_logits(address + span.head * step, step, begin + lane, span.vectors, x)
        if DENSE:
            read_labels(at + span.head * by, by, begin + lane, span.vectors, labels)
        if LABEL_GRADIENT:
            for s in range(HELD):
                y[s] = label_gradient(x[s], state.top, log_sum, factor)
            write_d_labels(l_to + span.head * l_step, l_step, begin + lane, span.vectors, y)
        if task.d_logits.address != 0:
            _gradients(x, labels, HELD, state.top, inverse, task, factor)
            write_d_logits(to + span.head * to_step, to_step, begin + lane, span.vectors, x)
    if not DENSE and label >= 0 and lane == owner_of(label, whole, first):
        own = part == 0
        if whole.head <= label < whole.tail:
            own = first <= (label - whole.head) // LANES < span.vectors
        if own:
            p = exp(z - state.top) * inverse
            store_logit(to + label * to_step, sparse_label_gradient(p, factor))
