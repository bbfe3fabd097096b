"""What all kernels over logits do for an example: find it, add up its classes, tell its loss.

States are those of ``_math``; within a kernel their low parts are 0. A single thread adds few
classes, and what many threads have is added as a tree.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import cuda

from .._math.compensated import total_of
from .._math.constants import constants
from .._math.cross_entropy import (
    Finished,
    State,
    add_drop,
    add_exp,
    add_label,
    count_top,
    exp_of_class,
    finish,
    is_below,
    move,
)
from .._math.primitives import maximum, where, widen
from .device import FULL_WARP, reciprocal

DENSE = False
WARPS = 1
OFFSETS: tuple[int, ...] = ()
SIZE = 0
NUMBER: Any = None
ZERO: Any = None
ONE: Any = None
NAN: Any = None
LOWEST: Any = None
load_logit: Any = None
load_label: Any = None
load_index: Any = None
load_wide_index: Any = None
load_number: Any = None
load_scale: Any = None
store_loss: Any = None
store_raw_loss: Any = None
RAW_SIZE = 0
_WARP = 32
_SHARED = 7 * _WARP
_NONE = np.int64(0)


def place_of(task: Any, example: int) -> tuple[int, int]:
    """The outer and inner position of an example."""
    if task.inner == 1:
        return example, _NONE
    outer = np.uint64(example) // np.uint64(task.inner)
    return np.int64(outer), example - np.int64(outer) * task.inner


def start_of(tensor: Any, outer: int, inner: int) -> int:
    """The address of an example's first class."""
    return tensor.address + outer * tensor.outer + inner * tensor.inner


# ---- states ---------------------------------------------------------------------------------


def no_classes(top: Any) -> State:
    """The state of no classes, seen from a maximum."""
    return State(top, ZERO, ZERO, ZERO, ZERO, ZERO, ZERO, ZERO, ZERO, ZERO, ZERO)


def scaled_down(state: State) -> State:
    """A state whose sums were formed with scaled terms, as :mod:`.._math` forms them."""
    c = constants(state.top)
    return State(
        state.top,
        state.count,
        state.rest * c.scale_down,
        ZERO,
        state.dot,
        ZERO,
        state.mass,
        ZERO,
        state.drop * c.scale_up,
        ZERO,
        state.size,
    )


def add_class(state: State, z: Any, label: Any, used: bool) -> tuple[State, Any]:
    """Add a class whose logit is not above the maximum, and its scaled exponential.

    Sums are scaled until :func:`scaled_down`. An unused class has the logit -inf and the label 0.
    """
    d, e = exp_of_class(z, state.top)
    below = is_below(d)
    rest = add_exp(below, e, state.rest)
    count = count_top(below, state.count)
    dot, mass, drop, size = state.dot, state.mass, state.drop, state.size
    if DENSE:
        dot, mass = add_label(d, label, dot, mass)
        drop = add_drop(d, used, drop)
        size = where(used, size + ONE, size)
    return State(state.top, count, rest, ZERO, dot, ZERO, mass, ZERO, drop, ZERO, size), e


def add_states(a: State, b: State) -> State:
    """The state of the classes of both, whose maxima are equal."""
    return State(
        a.top,
        a.count + b.count,
        a.rest + b.rest,
        ZERO,
        a.dot + b.dot,
        ZERO,
        a.mass + b.mass,
        ZERO,
        a.drop + b.drop,
        ZERO,
        a.size + b.size,
    )


def moved(state: State, top: Any) -> State:
    """A state seen from a maximum that is not smaller.

    What is not moved stays as it is, with infinite labels too; no classes may be moved infinitely.
    """
    there = move(state, top)
    stays = state.top == top
    dot = where(stays, state.dot, total_of(there.dot, there.dot_low))
    drop = where(stays | (state.size == ZERO), state.drop, total_of(there.drop, there.drop_low))
    return State(
        top,
        there.count,
        total_of(there.rest, there.rest_low),
        ZERO,
        dot,
        ZERO,
        there.mass,
        ZERO,
        drop,
        ZERO,
        there.size,
    )


def lanes_maximum(x: Any) -> Any:
    """The maximum over the threads that share an example within a warp."""
    for offset in OFFSETS:
        x = maximum(x, cuda.shfl_xor_sync(FULL_WARP, x, offset))
    return x


def lanes_sum(x: Any) -> Any:
    """The sum over them: the same bits in each, as a + b is b + a."""
    for offset in OFFSETS:
        x = x + cuda.shfl_xor_sync(FULL_WARP, x, offset)
    return x


def add_lanes(state: State) -> State:
    """The state of all classes of these threads, whose maxima are equal."""
    rest = lanes_sum(state.rest)
    count = lanes_sum(state.count)
    if not DENSE:
        return State(state.top, count, rest, ZERO, ZERO, ZERO, ZERO, ZERO, ZERO, ZERO, state.size)
    dot = lanes_sum(state.dot)
    mass = lanes_sum(state.mass)
    drop = lanes_sum(state.drop)
    size = lanes_sum(state.size)
    return State(state.top, count, rest, ZERO, dot, ZERO, mass, ZERO, drop, ZERO, size)


def merge_lanes(state: State) -> State:
    """The same where the maxima differ."""
    return add_lanes(moved(state, lanes_maximum(state.top)))


def merge_warps(state: State, warp: int, lane: int) -> State:
    """The state of the whole block from that of each warp, in every thread: one barrier."""
    shared = cuda.shared.array(_SHARED, NUMBER)
    if lane == 0:
        shared[warp] = state.top
        shared[_WARP + warp] = state.count
        shared[2 * _WARP + warp] = state.rest
        if DENSE:
            shared[3 * _WARP + warp] = state.dot
            shared[4 * _WARP + warp] = state.mass
            shared[5 * _WARP + warp] = state.drop
            shared[6 * _WARP + warp] = state.size
    cuda.syncthreads()
    top, count, rest, dot, mass, drop, size = LOWEST, ZERO, ZERO, ZERO, ZERO, ZERO, ZERO
    if lane < WARPS:
        top = shared[lane]
        count = shared[_WARP + lane]
        rest = shared[2 * _WARP + lane]
        if DENSE:
            dot = shared[3 * _WARP + lane]
            mass = shared[4 * _WARP + lane]
            drop = shared[5 * _WARP + lane]
            size = shared[6 * _WARP + lane]
    return merge_lanes(State(top, count, rest, ZERO, dot, ZERO, mass, ZERO, drop, ZERO, size))


# ---- results --------------------------------------------------------------------------------


def inverse_of(state: State) -> Any:
    """``1 / s`` of a whole example; NaN where it has no finite maximum."""
    valid = (state.top - state.top == ZERO) & (state.count > ZERO)
    return where(valid, reciprocal(state.count + state.rest), NAN)


def finish_wide(state: State) -> Finished:
    """What a whole example has come to, in float64."""
    return finish(wide_state(state))


def wide_state(state: State) -> State:
    """A state in float64."""
    return State(
        widen(state.top),
        widen(state.count),
        widen(state.rest),
        widen(state.rest_low),
        widen(state.dot),
        widen(state.dot_low),
        widen(state.mass),
        widen(state.mass_low),
        widen(state.drop),
        widen(state.drop_low),
        widen(state.size),
    )


def label_of(task: Any, outer: int, inner: int) -> int:
    """The class that is an example's label; -1 if there is no such class."""
    at = start_of(task.labels, outer, inner)
    label = load_wide_index(at) if task.wide != 0 else load_index(at)
    return label if 0 <= label < task.classes else np.int64(-1)


def write_loss(task: Any, example: int, outer: int, inner: int, loss: Any) -> None:
    """Write a loss as it is wanted."""
    if task.raw != 0:
        store_raw_loss(task.losses + example * RAW_SIZE, loss)
    else:
        loss = loss * task.weight
        if task.weights.address != 0:
            loss = loss * widen(load_number(start_of(task.weights, outer, inner)))
        store_loss(task.losses + example * SIZE, loss)


def factor_of(task: Any, outer: int, inner: int) -> Any:
    """What the gradients of an example are multiplied by."""
    factor = NUMBER(task.scale)
    if task.scale_at != 0:
        factor = NUMBER(task.scale * load_scale(task.scale_at))
    if task.weights.address != 0:
        factor = factor * load_number(start_of(task.weights, outer, inner))
    if task.upstream.address != 0:
        factor = factor * load_number(start_of(task.upstream, outer, inner))
    return factor
