"""States of classes in a kernel: added up by a thread, and merged over those that share an example.

The states are those of ``_math``; within a kernel their low parts are 0. A single thread adds few
classes, and what many threads have is added as a tree. Nothing here knows of memory, but for the
shared memory of a block.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import cuda

from .._math.compensated import add_pairs, two_product
from .._math.constants import constants
from .._math.cross_entropy import (
    State,
    add_drop,
    add_label,
    count_top,
    exp_of_class,
    exp_of_rest,
    is_below,
)
from .._math.exponential import exp
from .._math.primitives import fma, maximum, where
from .device import FULL_WARP, cluster_barrier, remote

DENSE = SMOOTH = False
STEP_16 = STEP_8 = STEP_4 = STEP_2 = STEP_1 = False
"""Which steps of a reduction there are. A loop over them is not always unrolled, and a shuffle in a
loop becomes a call where the assembler cannot tell that all threads take part."""
WARPS = CLUSTER = 1
SHARED = 0
NUMBER: Any = None
ZERO: Any = None
LOWEST: Any = None
EXP_SCALE: Any = None
_WARP = 32
SPARSE_FIELDS, DENSE_FIELDS, SMOOTH_FIELDS = 3, 6, 9
"""Numbers of a state in an array: without labels, with labels for each class, and smoothed."""


def no_classes(top: Any) -> State:
    """The state of no classes, seen from a maximum."""
    return State(top, ZERO, ZERO, ZERO, ZERO, ZERO, ZERO, ZERO, ZERO, ZERO, ZERO)


def scaled_down(state: State, size: Any) -> State:
    """A state of `size` classes whose terms were added up scaled."""
    return State(
        state.top,
        state.count,
        state.rest * EXP_SCALE,
        ZERO,
        state.dot,
        state.dot_low,
        state.mass,
        ZERO,
        state.drop,
        state.drop_low,
        size,
    )


def add_class(state: State, z: Any, label: Any, used: bool) -> tuple[State, Any]:
    """Add a class whose logit is not above the maximum, and its scaled exponential.

    Exponentials are scaled, and classes not counted, until :func:`scaled_down`. Where there is no
    class, the logit is -inf and the label 0.
    """
    d, e = exp_of_class(z, state.top)
    below = is_below(d)
    rest = state.rest + exp_of_rest(below, e)
    count = count_top(below, state.count)
    dot, low, mass = state.dot, state.dot_low, state.mass
    drop, drop_low = state.drop, state.drop_low
    # What a sum has lost, all of it but where a term is larger than what it is added to.
    if DENSE:
        dot, mass = add_label(d, label, dot, mass)
        low = where(label != ZERO, low + fma(label, d, state.dot - dot), low)
    if SMOOTH:
        drop = add_drop(d, used, constants(d).scale_down, drop)
        lost = fma(d, constants(d).scale_down, state.drop - drop)
        drop_low = where(used, drop_low + lost, drop_low)
    return State(state.top, count, rest, ZERO, dot, low, mass, ZERO, drop, drop_low, ZERO), e


def add_states(a: State, b: State) -> State:
    """The state of the classes of both, whose maxima are equal."""
    dot, low = a.dot, a.dot_low
    if DENSE:
        dot, low = add_pairs(a.dot, a.dot_low, b.dot, b.dot_low)
    drop, drop_low, size = a.drop, a.drop_low, a.size
    if SMOOTH:
        drop, drop_low = add_pairs(a.drop, a.drop_low, b.drop, b.drop_low)
        size = a.size + b.size
    return State(
        a.top,
        a.count + b.count,
        a.rest + b.rest,
        ZERO,
        dot,
        low,
        a.mass + b.mass,
        ZERO,
        drop,
        drop_low,
        size,
    )


def moved(state: State, top: Any) -> State:
    """A state seen from a maximum that is not smaller: ``move`` of ``_math``, with fewer low parts.

    What is not moved stays as it is, with infinite labels too; no classes may be moved infinitely.
    """
    shift = state.top - top
    factor = exp(shift)
    stays = state.top == top
    dot, low, drop, drop_low = state.dot, state.dot_low, state.drop, state.drop_low
    if DENSE:
        product, lost = two_product(state.mass, shift)
        there, there_low = add_pairs(dot, low, product, lost)
        alike = stays | (state.mass == ZERO)
        dot, low = where(alike, dot, there), where(alike, low, there_low)
    if SMOOTH:
        product, lost = two_product(state.size, shift * constants(top).scale_down)
        there, there_low = add_pairs(drop, drop_low, product, lost)
        alike = stays | (state.size == ZERO)
        drop, drop_low = where(alike, drop, there), where(alike, drop_low, there_low)
    return State(
        top,
        where(stays, state.count, ZERO),
        fma(state.rest, factor, where(stays, ZERO, state.count * factor)),
        ZERO,
        dot,
        low,
        state.mass,
        ZERO,
        drop,
        drop_low,
        state.size,
    )


def merged(a: State, b: State) -> State:
    """The state of the classes of both."""
    top = maximum(a.top, b.top)
    return add_states(moved(a, top), moved(b, top))


def lanes_maximum(x: Any) -> Any:
    """The maximum over the threads that share an example within a warp."""
    if STEP_16:
        x = maximum(x, cuda.shfl_xor_sync(FULL_WARP, x, 16))
    if STEP_8:
        x = maximum(x, cuda.shfl_xor_sync(FULL_WARP, x, 8))
    if STEP_4:
        x = maximum(x, cuda.shfl_xor_sync(FULL_WARP, x, 4))
    if STEP_2:
        x = maximum(x, cuda.shfl_xor_sync(FULL_WARP, x, 2))
    if STEP_1:
        x = maximum(x, cuda.shfl_xor_sync(FULL_WARP, x, 1))
    return x


def lanes_sum(x: Any) -> Any:
    """The sum over them: the same bits in each, as a + b is b + a."""
    if STEP_16:
        x = x + cuda.shfl_xor_sync(FULL_WARP, x, 16)
    if STEP_8:
        x = x + cuda.shfl_xor_sync(FULL_WARP, x, 8)
    if STEP_4:
        x = x + cuda.shfl_xor_sync(FULL_WARP, x, 4)
    if STEP_2:
        x = x + cuda.shfl_xor_sync(FULL_WARP, x, 2)
    if STEP_1:
        x = x + cuda.shfl_xor_sync(FULL_WARP, x, 1)
    return x


def _add_other(x: Any, low: Any, offset: int) -> tuple[Any, Any]:
    other = cuda.shfl_xor_sync(FULL_WARP, x, offset)
    return add_pairs(x, low, other, cuda.shfl_xor_sync(FULL_WARP, low, offset))


def _pairs_sum(x: Any, low: Any) -> tuple[Any, Any]:
    """The same for a pair."""
    if STEP_16:
        x, low = _add_other(x, low, 16)
    if STEP_8:
        x, low = _add_other(x, low, 8)
    if STEP_4:
        x, low = _add_other(x, low, 4)
    if STEP_2:
        x, low = _add_other(x, low, 2)
    if STEP_1:
        x, low = _add_other(x, low, 1)
    return x, low


def add_lanes(state: State) -> State:
    """The state of all classes of these threads, whose maxima are equal."""
    rest = lanes_sum(state.rest)
    count = lanes_sum(state.count)
    dot, low, mass, drop, drop_low, size = ZERO, ZERO, ZERO, ZERO, ZERO, ZERO
    if DENSE:
        dot, low = _pairs_sum(state.dot, state.dot_low)
        mass = lanes_sum(state.mass)
    if SMOOTH:
        drop, drop_low = _pairs_sum(state.drop, state.drop_low)
        size = lanes_sum(state.size)
    return State(state.top, count, rest, ZERO, dot, low, mass, ZERO, drop, drop_low, size)


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
        numbers[np.uint64(at + 4 * by)] = state.dot_low
        numbers[np.uint64(at + 5 * by)] = state.mass
    if SMOOTH:
        numbers[np.uint64(at + 6 * by)] = state.drop
        numbers[np.uint64(at + 7 * by)] = state.drop_low
        numbers[np.uint64(at + 8 * by)] = state.size


def take_state(numbers: Any, at: int, by: int) -> State:
    """Take it from there."""
    dot, low, mass, drop, drop_low, size = ZERO, ZERO, ZERO, ZERO, ZERO, ZERO
    top, count = numbers[np.uint64(at)], numbers[np.uint64(at + by)]
    rest = numbers[np.uint64(at + 2 * by)]
    if DENSE:
        dot, low = numbers[np.uint64(at + 3 * by)], numbers[np.uint64(at + 4 * by)]
        mass = numbers[np.uint64(at + 5 * by)]
    if SMOOTH:
        drop, drop_low = numbers[np.uint64(at + 6 * by)], numbers[np.uint64(at + 7 * by)]
        size = numbers[np.uint64(at + 8 * by)]
    return State(top, count, rest, ZERO, dot, low, mass, ZERO, drop, drop_low, size)


def _take_remote_state(numbers: Any, at: int, rank: int) -> State:
    """The same from the shared memory of a block of the cluster."""
    dot, low, mass, drop, drop_low, size = ZERO, ZERO, ZERO, ZERO, ZERO, ZERO
    top, count = remote(numbers, at, rank), remote(numbers, at + WARPS, rank)
    rest = remote(numbers, at + 2 * WARPS, rank)
    if DENSE:
        dot, low = remote(numbers, at + 3 * WARPS, rank), remote(numbers, at + 4 * WARPS, rank)
        mass = remote(numbers, at + 5 * WARPS, rank)
    if SMOOTH:
        drop, drop_low = (
            remote(numbers, at + 6 * WARPS, rank),
            remote(numbers, at + 7 * WARPS, rank),
        )
        size = remote(numbers, at + 8 * WARPS, rank)
    return State(top, count, rest, ZERO, dot, low, mass, ZERO, drop, drop_low, size)


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
