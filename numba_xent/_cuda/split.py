"""Long rows: more classes than registers hold, in tiles, read twice.

``online`` gives each row a block, which reads it again while the caches may still hold it. Few rows
are split over many blocks: ``split`` leaves the state of each part in memory, and with it the
label's logit, which the gradient may overwrite; ``finish_split`` merges the states of a row, once in
each warp, and computes loss and gradient.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import cuda

from .._math.cross_entropy import (
    State,
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
from .spans import Span, cut, edge_class, is_used, owner_of, stride_of
from .states import (
    SMOOTH_FIELDS,
    add_class,
    add_states,
    merge_lanes,
    merge_warps,
    moved,
    no_classes,
    put_state,
    scaled_down,
    take_state,
)

DENSE = SMOOTH = GRADIENT = LABEL_GRADIENT = False
WIDTH = HELD = VECTORS = LANES = RAW_SIZE = FIELDS = 0
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
load_number: Any = None
store_number: Any = None
store_logit: Any = None
store_label: Any = None
_WARP = 32
_NO_CLASS = np.int64(-1)
NUMBERS = SMOOTH_FIELDS + 1
"""Of each part in memory: the fields of its state, and at last the label's logit in the first."""
_LABEL = NUMBERS - 1


def _vectors_of(part: int, parts: int, span: Span) -> tuple[int, Span]:
    """The first vector of a part, and the span as if its last vector were the last of all.

    Parts begin at multiples of ``WIDTH``: the same thread has a vector wherever it is.
    """
    share = (span.vectors + parts - 1) // parts
    share = (share + WIDTH - 1) // WIDTH * WIDTH
    first = min(part * share, span.vectors)
    return first, Span(span.head, min(first + share, span.vectors), span.tail, span.classes)


def _add_tile(state: State, x: Any, labels: Any, span: Span, first: int) -> State:
    """Add the tile of vectors from `first` on."""
    top = state.top
    for s in range(HELD):
        top = maximum(top, x[s])
    tile = no_classes(top)
    size = 0
    for s in range(HELD):
        used = is_used(s, span, first)
        tile, _ = add_class(tile, x[s], labels[s] if DENSE else ZERO, used)
        if SMOOTH and used:
            size += 1
    return add_states(moved(state, top), scaled_down(tile, NUMBER(size)))


def _gather(task: Any, outer: int, inner: int, lane: int, part: int, parts: int) -> State:
    """The state of a part of a row, in every thread."""
    address, step = start_of(task.logits, outer, inner), task.logits.classes
    at, by = start_of(task.labels, outer, inner), task.labels.classes
    whole = cut(address, task.classes)
    first, span = _vectors_of(part, parts, whole)
    x = cuda.local.array(HELD, NUMBER)
    labels = cuda.local.array(HELD, NUMBER)
    state = no_classes(LOWEST)
    edge = edge_class(whole, lane)
    if LANES > 1 and part == 0 and edge >= 0:
        z = load_logit(address + edge * step)
        label = ZERO
        if DENSE:
            label = load_label(at + edge * by)
        state, _ = add_class(no_classes(maximum(LOWEST, z)), z, label, True)
        state = scaled_down(state, NUMBER(1))
    for begin in range(first, span.vectors, WIDTH * VECTORS):
        start = begin + lane
        read_logits(address + span.head * step, stride_of(step), start, span.vectors, x)
        if DENSE:
            read_labels(at + span.head * by, stride_of(by), start, span.vectors, labels)
        state = _add_tile(state, x, labels, span, start)
    return merge_warps(merge_lanes(state), lane // _WARP, lane % _WARP)


def _spread(
    task: Any, outer: int, inner: int, lane: int, part: int, parts: int, state: State, label: int,
    z: Any,
) -> None:  # fmt: skip
    """Write the gradients of a part of a row."""
    factor = factor_of(task, outer, inner)
    inverse = inverse_of(state)
    if not DENSE and label < 0:
        inverse = NAN
    scaled = inverse * EXP_SCALE
    address, step = start_of(task.logits, outer, inner), task.logits.classes
    at, by = start_of(task.labels, outer, inner), task.labels.classes
    to, to_step = start_of(task.d_logits, outer, inner), task.d_logits.classes
    whole = cut(address, task.classes)
    first, span = _vectors_of(part, parts, whole)
    log_sum = ZERO
    if LABEL_GRADIENT:
        log_sum = NUMBER(finish_wide(state).log_sum)
        l_to, l_step = start_of(task.d_labels, outer, inner), task.d_labels.classes
    x = cuda.local.array(HELD, NUMBER)
    y = cuda.local.array(HELD, NUMBER)
    labels = cuda.local.array(HELD, NUMBER)
    edge = edge_class(whole, lane)
    if LANES > 1 and part == 0 and edge >= 0:
        own = load_logit(address + edge * step)
        own_label = ZERO
        if DENSE:
            own_label = load_label(at + edge * by)
        if LABEL_GRADIENT:
            d_label = label_gradient(own, state.top, log_sum, factor)
            store_label(l_to + edge * l_step, d_label)
        if task.d_logits.address != 0:
            e = exp_of_class(own, state.top)[1]
            store_logit(to + edge * to_step, gradient_of(task, e, scaled, own_label, factor))
    for begin in range(first, span.vectors, WIDTH * VECTORS):
        start = begin + lane
        read_logits(address + span.head * step, stride_of(step), start, span.vectors, x)
        if DENSE:
            read_labels(at + span.head * by, stride_of(by), start, span.vectors, labels)
        if LABEL_GRADIENT:
            for s in range(HELD):
                y[s] = label_gradient(x[s], state.top, log_sum, factor)
            write_d_labels(l_to + span.head * l_step, stride_of(l_step), start, span.vectors, y)
        if task.d_logits.address != 0:
            for s in range(HELD):
                e = exp_of_class(x[s], state.top)[1]
                x[s] = gradient_of(task, e, scaled, labels[s] if DENSE else ZERO, factor)
            write_d_logits(to + span.head * to_step, stride_of(to_step), start, span.vectors, x)
    if not DENSE and label >= 0 and lane == owner_of(label, whole):
        own_part = part == 0
        if whole.head <= label < whole.tail:
            own_part = first <= (label - whole.head) // LANES < span.vectors
        if own_part:
            p = exp(z - state.top) * inverse
            store_logit(to + label * to_step, sparse_label_gradient(p, factor))


def online(task: Any) -> None:
    """The loss and the gradients of a row."""
    lane, example = np.int64(cuda.threadIdx.x), np.int64(cuda.blockIdx.x)
    outer, inner = place_of(task, example)
    state = _gather(task, outer, inner, lane, 0, 1)
    address, step = start_of(task.logits, outer, inner), task.logits.classes
    label, z, owner = _NO_CLASS, NAN, lane == 0
    if not DENSE:
        label = label_of(task, outer, inner)
        if label >= 0:
            # Nobody else overwrites it.
            owner = lane == owner_of(label, cut(address, task.classes))
            if owner:
                z = load_logit(address + label * step)
    if owner:
        write_loss(task, example, outer, inner, loss_of(task, state, z))
    if GRADIENT:
        _spread(task, outer, inner, lane, 0, 1, state, label, z)


def split(task: Any) -> None:
    """The state of each part of each row."""
    lane = np.int64(cuda.threadIdx.x)
    example, part = np.int64(cuda.blockIdx.x), np.int64(cuda.blockIdx.y)
    outer, inner = place_of(task, example)
    state = _gather(task, outer, inner, lane, part, task.parts)
    if lane == 0:
        to = task.states + (example * task.parts + part) * NUMBERS * RAW_SIZE
        fields = cuda.local.array(FIELDS, NUMBER)
        put_state(fields, 0, 1, state)
        for f in range(FIELDS):
            store_number(to + f * RAW_SIZE, fields[f])
        if not DENSE and part == 0:
            label = label_of(task, outer, inner)
            at = start_of(task.logits, outer, inner) + label * task.logits.classes
            store_number(to + _LABEL * RAW_SIZE, load_logit(at) if label >= 0 else NAN)


def _merged(task: Any, example: int, lane: int) -> State:
    """The state of a row from those of its parts, of which there are at most as many as lanes."""
    state = no_classes(LOWEST)
    if lane < task.parts:
        at = task.states + (example * task.parts + lane) * NUMBERS * RAW_SIZE
        fields = cuda.local.array(FIELDS, NUMBER)
        for f in range(FIELDS):
            fields[f] = load_number(at + f * RAW_SIZE)
        state = take_state(fields, 0, 1)
    return merge_lanes(state)


def finish_split(task: Any) -> None:
    """The loss of each row, and the gradients of each part."""
    lane = np.int64(cuda.threadIdx.x)
    example, part = np.int64(cuda.blockIdx.x), np.int64(cuda.blockIdx.y)
    outer, inner = place_of(task, example)
    state = _merged(task, example, lane % _WARP)
    label, z = _NO_CLASS, NAN
    if not DENSE:
        label = label_of(task, outer, inner)
        z = load_number(task.states + (example * task.parts * NUMBERS + _LABEL) * RAW_SIZE)
    if lane == 0 and part == 0:
        write_loss(task, example, outer, inner, loss_of(task, state, z))
    if GRADIENT:
        _spread(task, outer, inner, lane, part, task.parts, state, label, z)
