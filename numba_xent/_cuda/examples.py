"""What all kernels over logits do for an example: find it, add up its classes, tell its loss.

States are those of ``_math``; within a kernel their low parts are 0. A single thread adds few
classes, and what many threads have is added as a tree.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import cuda

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
)
from .._math.exponential import exp
from .._math.primitives import fma, maximum, where, widen
from .device import FULL_WARP, cluster_barrier, reciprocal, remote

DENSE = False
WARPS = CLUSTER = 1
SHARED = 0
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
EXP_SCALE: Any = None
_WARP = 32
FIELDS = 7
"""Numbers of a state in an array."""
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


def scaled_down(state: State, size: Any) -> State:
    """A state of `size` classes whose sums were formed with scaled terms."""
    c = constants(state.top)
    return State(
        state.top,
        state.count,
        state.rest * EXP_SCALE,
        ZERO,
        state.dot,
        ZERO,
        state.mass,
        ZERO,
        state.drop * c.scale_up,
        ZERO,
        size,
    )


def add_class(state: State, z: Any, label: Any, used: bool) -> tuple[State, Any]:
    """Add a class whose logit is not above the maximum, and its scaled exponential.

    Sums are scaled, and classes not counted, until :func:`scaled_down`. An unused class has the
    logit -inf and the label 0.
    """
    d, e = exp_of_class(z, state.top)
    below = is_below(d)
    rest = add_exp(below, e, state.rest)
    count = count_top(below, state.count)
    dot, mass, drop = state.dot, state.mass, state.drop
    if DENSE:
        dot, mass = add_label(d, label, dot, mass)
        drop = add_drop(d, used, drop)
    return State(state.top, count, rest, ZERO, dot, ZERO, mass, ZERO, drop, ZERO, ZERO), e


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
    """A state seen from a maximum that is not smaller: ``move`` of ``_math``, without low parts.

    What is not moved stays as it is, with infinite labels too; no classes may be moved infinitely.
    """
    shift = state.top - top
    factor = exp(shift)
    stays = state.top == top
    dot, drop = state.dot, state.drop
    if DENSE:
        dot = where(stays | (state.mass == ZERO), dot, fma(state.mass, shift, dot))
        drop = where(stays | (state.size == ZERO), drop, fma(state.size, shift, drop))
    return State(
        top,
        where(stays, state.count, ZERO),
        fma(state.rest, factor, where(stays, ZERO, state.count * factor)),
        ZERO,
        dot,
        ZERO,
        state.mass,
        ZERO,
        drop,
        ZERO,
        state.size,
    )


def merged(a: State, b: State) -> State:
    """The state of the classes of both."""
    top = maximum(a.top, b.top)
    return add_states(moved(a, top), moved(b, top))


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


def put_state(numbers: Any, at: int, by: int, state: State) -> None:
    """Leave a state in an array: field f at ``at + f * by``."""
    # A signed index is looked at whether it is negative.
    numbers[np.uint64(at)] = state.top
    numbers[np.uint64(at + by)] = state.count
    numbers[np.uint64(at + 2 * by)] = state.rest
    if DENSE:
        numbers[np.uint64(at + 3 * by)] = state.dot
        numbers[np.uint64(at + 4 * by)] = state.mass
        numbers[np.uint64(at + 5 * by)] = state.drop
        numbers[np.uint64(at + 6 * by)] = state.size


def take_state(numbers: Any, at: int, by: int) -> State:
    """Take it from there."""
    dot, mass, drop, size = ZERO, ZERO, ZERO, ZERO
    top, count = numbers[np.uint64(at)], numbers[np.uint64(at + by)]
    rest = numbers[np.uint64(at + 2 * by)]
    if DENSE:
        dot, mass = numbers[np.uint64(at + 3 * by)], numbers[np.uint64(at + 4 * by)]
        drop, size = numbers[np.uint64(at + 5 * by)], numbers[np.uint64(at + 6 * by)]
    return State(top, count, rest, ZERO, dot, ZERO, mass, ZERO, drop, ZERO, size)


def _take_remote_state(numbers: Any, at: int, rank: int) -> State:
    """The same from the shared memory of a block of the cluster."""
    dot, mass, drop, size = ZERO, ZERO, ZERO, ZERO
    top, count = remote(numbers, at, rank), remote(numbers, at + WARPS, rank)
    rest = remote(numbers, at + 2 * WARPS, rank)
    if DENSE:
        dot = remote(numbers, at + 3 * WARPS, rank)
        mass = remote(numbers, at + 4 * WARPS, rank)
        drop = remote(numbers, at + 5 * WARPS, rank)
        size = remote(numbers, at + 6 * WARPS, rank)
    return State(top, count, rest, ZERO, dot, ZERO, mass, ZERO, drop, ZERO, size)


def merge_warps(state: State, warp: int, lane: int) -> State:
    """The state of the whole block, or cluster, from that of each warp, in every thread."""
    shared = cuda.shared.array(SHARED, NUMBER)
    if lane == 0:
        put_state(shared, warp, WARPS, state)
    if CLUSTER > 1:
        cluster_barrier()
    else:
        cuda.syncthreads()
    total = no_classes(LOWEST)
    if CLUSTER > 1:
        for i in range(lane, WARPS * CLUSTER, _WARP):
            total = merged(total, _take_remote_state(shared, i % WARPS, i // WARPS))
        # No block ends while another one reads its memory.
        cluster_barrier()
    elif lane < WARPS:
        total = take_state(shared, lane, WARPS)
    return merge_lanes(total)


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
