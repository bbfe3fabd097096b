"""What all kernels over logits do for an example: find it, add up its classes, tell its loss.

States are those of ``_math``; within a kernel their low parts are 0. A single thread adds few
classes, and what many threads have is added as a tree.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import cuda

from .._math.compensated import add_pairs, two_product
from .._math.constants import constants
from .._math.cross_entropy import (
    Finished,
    State,
    add_drop,
    add_label,
    count_top,
    dense_gradient,
    dense_loss,
    exp_of_class,
    exp_of_rest,
    finish,
    is_below,
    smooth,
    sparse_gradient,
    sparse_loss,
)
from .._math.exponential import exp
from .._math.primitives import fma, maximum, where, widen
from .device import FULL_WARP, cluster_barrier, reciprocal, remote

DENSE = SMOOTH = False
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
FIELDS = 9
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


def gradient_of(task: Any, e: Any, to_probability: Any, label: Any, factor: Any) -> Any:
    """The gradient by the logit of a class, as if it were not the label if labels are sparse."""
    if not DENSE:
        return sparse_gradient(e, to_probability, factor)
    if SMOOTH:
        label = smooth(label, NUMBER(task.keep), NUMBER(task.uniform))
    return dense_gradient(e, to_probability, label, factor)


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
    for offset in OFFSETS:
        x = maximum(x, cuda.shfl_xor_sync(FULL_WARP, x, offset))
    return x


def lanes_sum(x: Any) -> Any:
    """The sum over them: the same bits in each, as a + b is b + a."""
    for offset in OFFSETS:
        x = x + cuda.shfl_xor_sync(FULL_WARP, x, offset)
    return x


def _pairs_sum(x: Any, low: Any) -> tuple[Any, Any]:
    """The same for a pair."""
    for offset in OFFSETS:
        other = cuda.shfl_xor_sync(FULL_WARP, x, offset)
        x, low = add_pairs(x, low, other, cuda.shfl_xor_sync(FULL_WARP, low, offset))
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


# ---- results --------------------------------------------------------------------------------


def inverse_of(state: State) -> Any:
    """``1 / s`` of a whole example; NaN where it has no finite maximum."""
    valid = (state.top - state.top == ZERO) & (state.count > ZERO)
    near = reciprocal(state.count + state.rest)
    # One step of Newton's, for the sum before it was rounded.
    wrong = fma(-near, state.rest, fma(-near, state.count, ONE))
    return where(valid, fma(near, wrong, near), NAN)


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
        widen(state.drop) * widen(constants(state.top).scale_up),
        widen(state.drop_low) * widen(constants(state.top).scale_up),
        widen(state.size),
    )


def label_of(task: Any, outer: int, inner: int) -> int:
    """The class that is an example's label; -1 if there is no such class."""
    at = start_of(task.labels, outer, inner)
    label = load_wide_index(at) if task.wide != 0 else load_index(at)
    return label if 0 <= label < task.classes else np.int64(-1)


def loss_of(task: Any, state: State, z: Any) -> Any:
    """The loss of a whole example in float64; `z` is the logit of the label, if there is one."""
    row = finish_wide(state)
    if DENSE:
        keep, uniform = (task.keep, task.uniform) if SMOOTH else (1.0, 0.0)
        return dense_loss(wide_state(state), row, keep, uniform)
    return sparse_loss(widen(z), row)


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
