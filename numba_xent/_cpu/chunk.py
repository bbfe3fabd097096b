"""The passes over one chunk of a unit: its maximum, its sums, and its gradients.

A chunk stays in L1 cache between the search for its maximum and the sum of its exponentials.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .._math.constants import constants
from .._math.cross_entropy import (
    add_drop,
    add_label,
    dense_gradient,
    drop_below,
    exp_of_class,
    exp_of_rest,
    is_below,
    label_gradient,
    smooth,
    sparse_gradient,
)
from .._math.primitives import where
from .compile import inlined
from .halves import widened
from .intrinsics import (
    count_lanes,
    first_lane,
    high_half,
    join,
    lane_numbers,
    lanes_of,
    load,
    low_half,
    pointer,
    size_of,
    store,
)
from .lanes import Sums, add_label_of_class, add_rest, add_term
from .stream import Stage, drain, stage_for
from .tile import (
    WIDE,
    Tile,
    ask,
    get_register,
    get_wide,
    load_tail,
    put_class,
    register_at,
    row_tile,
    section,
    set_register,
    store_tail,
)

BLOCK = 4 * WIDE
"""Registers of a row that are summed plainly before their sum is added to a float64 or compensated
one. The rounding errors of the lanes average out. In columns each lane is an example, and each term
is added on its own: two or four at a time are 10 % faster, but 2.1 or 2.2 ulp off instead of 1.7."""

_FIRST = np.int64(0)  # as a literal it would be compiled apart


# ---- the maximum ----------------------------------------------------------------------------
#
# A comparison passes over NaN; one test for two registers finds it. Together they take a third of
# the time of a maximum that propagates NaN. A lane that is NaN already stays so.


@inlined
def _all(x: Any) -> Any:
    """True in every lane."""
    return lane_numbers(x) >= constants(x).zero


@inlined
def _larger(a: Any, b: Any) -> Any:
    """`b` where it is larger than `a`, else `a`."""
    return where(b > a, b, a)


@inlined
def _max_from(x: Tile, first: int, tail: int, top: Any, zero: Any) -> Any:
    """The maximum in each lane of `top` and the registers from number `first` on."""
    lowest = zero + constants(zero).lowest
    a = top
    b = lowest
    c = lowest
    d = lowest
    nan = zero != zero
    if tail != 0:
        b = load_tail(x, -np.inf, zero)
        nan = b != b
        b = _larger(lowest, b)
    # Four chains, because one would wait for its own latency.
    whole = first + (x.full - first) // 4 * 4
    for v in range(first, whole, 4):
        p = get_register(x, v)
        q = get_register(x, v + 1)
        r = get_register(x, v + 2)
        s = get_register(x, v + 3)
        a = _larger(a, p)
        b = _larger(b, q)
        c = _larger(c, r)
        d = _larger(d, s)
        nan = nan | ((p != p) | (q != q)) | ((r != r) | (s != s))
    for v in range(whole, x.full):
        p = get_register(x, v)
        a = _larger(a, p)
        nan = nan | (p != p)
    return where(nan, np.nan, _larger(a, _larger(_larger(b, c), d)))


@inlined
def max_of_chunk(x: Tile, tail: int, zero: Any) -> Any:
    """The maximum in each lane, NaN if there is a NaN, at least the lowest finite number."""
    return _max_from(x, _FIRST, tail, zero + constants(zero).lowest, zero)


# ---- the sums -------------------------------------------------------------------------------


@inlined
def _add_up(x: Any) -> Any:
    """The sum of the registers that are side by side."""
    return low_half(x) + high_half(x)


class _Terms(NamedTuple):
    """Plain sums of a few registers, before they are added to those of the chunk."""

    rest: Any
    dot: Any
    mass: Any
    drop: Any


@inlined
def _add_register(
    z: Any, labels: Any, label: Any, used: Any, top: Any, terms: _Terms
) -> tuple[Any, Any, _Terms]:
    """Add classes to plain sums; returns which are below the maximum and the exponentials, too."""
    d, exponential = exp_of_class(z, top)
    below = is_below(d)
    rest = terms.rest + exp_of_rest(below, exponential)
    if labels is None:
        return below, exponential, _Terms(rest, terms.dot, terms.mass, terms.drop)
    dot, mass = add_label(d, label, terms.dot, terms.mass)
    drop = add_drop(d, used, constants(d).scale_down, terms.drop)
    return below, exponential, _Terms(rest, dot, mass, drop)


@inlined
def _label(labels: Any, v: int, zero: Any) -> Any:
    """The labels in register number `v` of a tile; anything if there are none."""
    if labels is None:
        return zero
    return get_register(labels, v)


@inlined
def _wide_label(labels: Any, v: int, zero: Any) -> Any:
    """Two registers of labels as one, from number `v` on; anything if there are none."""
    if labels is None:
        return zero
    ask(labels, v)
    return get_wide(labels, v)


@inlined
def _label_of_tail(labels: Any, zero: Any) -> Any:
    """The labels of the tail; anything if there are none."""
    if labels is None:
        return zero
    return load_tail(labels, 0.0, zero)


@inlined
def _add_terms(sums: Sums, count: Any, terms: _Terms, labels: Any) -> Sums:
    """Add plain sums to those of the chunk; `count` is up to date already."""
    added = add_rest(sums, count, terms.rest)
    if labels is None:
        return added
    dot, dot_low = add_term(sums.dot, sums.dot_low, terms.dot)
    mass, mass_low = add_term(sums.mass, sums.mass_low, terms.mass)
    drop, drop_low = add_term(sums.drop, sums.drop_low, terms.drop)
    return Sums(count, added.rest, added.rest_low, dot, dot_low, mass, mass_low, drop, drop_low)


@inlined
def sum_columns(
    x: Tile,
    first: int,
    last: int,
    labels: Any,
    e: Any,
    terms: Any,
    distances: Any,
    top: Any,
    zero: Any,
    sums: Sums,
) -> Sums:
    """Add a chunk's registers from one to another to the sums of the examples in the lanes.

    Without `labels` nothing is added about them, without `e` no exponential is kept. What is to be
    added, and how far the classes are from the maximum, is left in memory first, where there must be
    room for so many registers: to widen numbers as they are loaded takes the processor half of the
    operations that it takes from a register, and there are registers enough for either loop. The
    count is that of all classes of the chunk, of which those below the maximum are taken off.
    """
    size = size_of(zero)
    count = sums.count
    for v in range(first, last):
        d, exponential = exp_of_class(get_register(x, v), top)
        if e is not None:
            set_register(e, v, exponential)
        below = is_below(d)
        count = drop_below(below, count)
        store(terms + (v - first) * size, exp_of_rest(below, exponential))
        if labels is not None:
            store(distances + (v - first) * size, d)
    for v in range(first, last):
        sums = add_rest(sums, count, load(terms + (v - first) * size, zero))
        if labels is not None:
            d = load(distances + (v - first) * size, zero)
            sums = add_label_of_class(d, get_register(labels, v), _all(zero), zero, sums)
    return sums


@inlined
def _add_wide(
    x: Tile, labels: Any, e: Any, v: int, top: Any, count: int, terms: _Terms
) -> tuple[int, _Terms]:
    """Add two registers of a row, side by side, to plain sums."""
    z = get_wide(x, v)
    label = _wide_label(labels, v, top)
    below, exponential, terms = _add_register(z, labels, label, _all(top), top, terms)
    if e is not None:
        store(register_at(e, v), exponential)
    return count + lanes_of(top) - count_lanes(below), terms


@inlined
def _narrow(terms: _Terms) -> _Terms:
    """The plain sums of registers side by side added up."""
    return _Terms(_add_up(terms.rest), _add_up(terms.dot), _add_up(terms.mass), _add_up(terms.drop))


@inlined
def sum_row(
    p: Any,
    x: Tile,
    following: Tile,
    following_tail: int,
    labels: Any,
    e: Any,
    tail: int,
    top: Any,
    waiting: Any,
    stage: Any,
    zero: Any,
    sums: Sums,
) -> tuple[Sums, Any]:
    """Add a chunk of a row to its sums, and find the maximum of the chunk that follows.

    While this chunk is computed, the other comes from memory; it must not be shorter. Meanwhile the
    gradients that are `waiting` go to the `stage`, if there are such, and that is emptied. Without
    `labels` nothing is added about them, without `e` no exponential is kept.
    """
    wide_zero = join(zero, zero)
    wide_top = join(top, top)
    nothing = _Terms(wide_zero, wide_zero, wide_zero, wide_zero)
    a = zero + constants(zero).lowest
    b = a
    nan = zero != zero
    count = sums.count
    blocks = x.full // BLOCK * BLOCK
    for v in range(0, blocks, BLOCK):
        if stage is not None:
            drain(stage, BLOCK)
            if waiting.there:
                write_waiting(p, waiting, v, BLOCK, 0, stage, zero)
        terms = nothing
        for w in range(0, BLOCK, WIDE):
            count, terms = _add_wide(x, labels, e, v + w, wide_top, count, terms)
            ask(following, v + w)
            y = widened(load(register_at(following, v + w), following.stored))
            z = widened(load(register_at(following, v + w + 1), following.stored))
            a = _larger(a, y)
            b = _larger(b, z)
            nan = nan | ((y != y) | (z != z))
        sums = _add_terms(sums, count, _narrow(terms), labels)
    # What is left is less than a block.
    if stage is not None and waiting.there:
        write_waiting(p, waiting, blocks, x.full - blocks, tail, stage, zero)
    terms = nothing
    whole = x.full // WIDE * WIDE
    for v in range(blocks, whole, WIDE):
        count, terms = _add_wide(x, labels, e, v, wide_top, count, terms)
    terms = _narrow(terms)
    if whole < x.full:
        label = _label(labels, whole, zero)
        below, exponential, terms = _add_register(
            get_register(x, whole), labels, label, _all(zero), top, terms
        )
        count += lanes_of(zero) - count_lanes(below)
        if e is not None:
            set_register(e, whole, exponential)
    if tail != 0:
        # The other lanes are padded with -inf, which adds nothing to any sum but `drop`.
        z = load_tail(x, -np.inf, zero)
        label = _label_of_tail(labels, zero)
        used = lane_numbers(zero) < tail
        below, exponential, terms = _add_register(z, labels, label, used, top, terms)
        count += lanes_of(zero) - count_lanes(below)
        if e is not None:
            store(e.tail, exponential)
    sums = _add_terms(sums, count, terms, labels)
    start = where(nan, np.nan, _larger(a, b))
    return sums, _max_from(following, blocks, following_tail, start, zero)


# ---- the gradient ---------------------------------------------------------------------------


class Waiting(NamedTuple):
    """A chunk of a row whose gradient is still to be written.

    It has as many registers as the chunk that is summed meanwhile, and whose exponentials take the
    place of its own.

    Attributes
    ----------
    there
        Whether there is one at all.
    e, labels
        Its exponentials and labels, the latter None if they are sparse.
    place
        The address of its gradient.
    factor, scale
        What makes its exponentials probabilities, and what gradients are multiplied by.
    label, at_label
        The number of a sparse label, counted from the first class of the chunk, and where the
        gradient of its class lies.
    stored
        A register of zeros as gradients are stored.
    """

    there: bool
    e: Tile
    labels: Any
    place: int
    factor: Any
    scale: Any
    label: int
    at_label: Any
    stored: Any


@inlined
def _gradient(p: Any, e: Any, labels: Any, label: Any, to_probability: Any, scale: Any) -> Any:
    """The gradient by the logits of one register."""
    if labels is None:
        return sparse_gradient(e, to_probability, scale)
    return dense_gradient(e, to_probability, smooth(label, p.keep_label, p.uniform), scale)


@inlined
def _section_of_labels(labels: Any, first: int, count: int) -> Any:
    """So many registers of labels from number `first` on, None if there are none."""
    if labels is None:
        return None
    return section(labels, first, count)


@inlined
def write_waiting(
    p: Any, waiting: Waiting, first: int, count: int, tail: int, stage: Stage, zero: Any
) -> None:
    """Put the gradients of so many registers, and of a tail behind them, on the stage."""
    number = size_of(first_lane(waiting.stored))
    classes = count * lanes_of(zero) + tail
    place = pointer(waiting.place + first * size_of(waiting.stored))
    out = row_tile(stage_for(stage, place, classes * number), count, tail, waiting.stored)
    e = section(waiting.e, first, count)
    labels = _section_of_labels(waiting.labels, first, count)
    gradient_of_chunk(p, e, labels, out, tail, waiting.factor, waiting.scale, zero)
    if waiting.labels is None:
        put_class(out, tail, waiting.label - first * lanes_of(zero), waiting.at_label)


@inlined
def exp_of_chunk(x: Tile, e: Tile, tail: int, top: Any, zero: Any) -> None:
    """The exponentials of a chunk against a maximum that is known."""
    for v in range(x.full):
        set_register(e, v, exp_of_class(get_register(x, v), top)[1])
    if tail != 0:
        store_tail(e, exp_of_class(load_tail(x, 0.0, zero), top)[1])


@inlined
def scale_chunk(e: Tile, tail: int, factor: Any, zero: Any) -> None:
    """Multiply exponentials by a factor."""
    for v in range(e.full):
        set_register(e, v, get_register(e, v) * factor)
    if tail != 0:
        store(e.tail, load(e.tail, zero) * factor)


@inlined
def gradient_of_chunk(
    p: Any, e: Tile, labels: Any, out: Tile, tail: int, to_probability: Any, scale: Any, zero: Any
) -> None:
    """The gradient by the logits of a chunk, from its exponentials."""
    for v in range(e.full):
        label = _label(labels, v, zero)
        set_register(out, v, _gradient(p, get_register(e, v), labels, label, to_probability, scale))
    if tail != 0:
        label = _label_of_tail(labels, zero)
        store_tail(out, _gradient(p, load(e.tail, zero), labels, label, to_probability, scale))


@inlined
def label_gradient_of_chunk(
    x: Tile, out: Tile, tail: int, top: Any, log_sum: Any, scale: Any, zero: Any
) -> None:
    """The gradient by the labels of a chunk, from its logits."""
    for v in range(x.full):
        set_register(out, v, label_gradient(get_register(x, v), top, log_sum, scale))
    if tail != 0:
        store_tail(out, label_gradient(load_tail(x, 0.0, zero), top, log_sum, scale))
