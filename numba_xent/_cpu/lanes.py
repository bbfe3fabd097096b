"""From the lanes of registers to the states of examples, one example in each lane.

For columns the lanes are examples already. For rows they hold different classes of one example:
what is known of each example is left in memory, one register for each, and then added up for all
examples of the unit at once. Where a function takes `rows`, it is None for columns, and Numba
compiles one side only.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba.core import types

from .._math.compensated import accumulate, add_pairs
from .._math.constants import constants
from .._math.cross_entropy import (
    Finished,
    State,
    add_drop,
    add_label,
    finish,
    finish_float32,
)
from .._math.primitives import maximum, where, widen
from .compile import for_types, inlined
from .intrinsics import (
    evens,
    first_lane,
    high_half,
    join,
    lanes_of,
    load,
    low_half,
    odds,
    part_of,
    size_of,
    store,
)

_F64 = np.float64(0)


class Sums(NamedTuple):
    """The sums of a chunk in the lanes of registers; ``rest`` and ``drop`` are scaled.

    They are float64; those of float32 terms need no low parts, and have zeros. The count is one
    integer for rows, and of the compute dtype for columns.
    """

    count: Any
    rest: Any
    rest_low: Any
    dot: Any
    dot_low: Any
    mass: Any
    mass_low: Any
    drop: Any
    drop_low: Any


@inlined
def no_sums(count: Any, zero: Any) -> Sums:
    """Sums to begin with: a count, and nothing else."""
    nothing = widen(zero)
    return Sums(count, nothing, nothing, nothing, nothing, nothing, nothing, nothing, nothing)


def add_term(high: Any, low: Any, term: Any) -> Any:
    """Add a register of the compute dtype to a sum, and lose nothing that matters."""
    raise NotImplementedError


@for_types(add_term)
def _add_term(high: Any, low: Any, term: Any) -> Any:
    if term.dtype is types.float32:
        return lambda high, low, term: (high + widen(term), low)
    return lambda high, low, term: accumulate(high, low, term)


@inlined
def add_rest(sums: Sums, count: Any, term: Any) -> Sums:
    """Add to the sum of exponentials; `count` is up to date already."""
    rest, rest_low = add_term(sums.rest, sums.rest_low, term)
    return Sums(
        count,
        rest,
        rest_low,
        sums.dot,
        sums.dot_low,
        sums.mass,
        sums.mass_low,
        sums.drop,
        sums.drop_low,
    )


@inlined
def add_label_of_class(d: Any, label: Any, used: Any, zero: Any, sums: Sums) -> Sums:
    """Add a class of each example to the sums over labels, and to that over classes."""
    return Sums(
        sums.count,
        sums.rest,
        sums.rest_low,
        *_add_to_labels(d, label, used, zero, sums),
    )


def _add_to_labels(d: Any, label: Any, used: Any, zero: Any, sums: Sums) -> Any:
    """The last six of the sums, with a class of each example."""
    raise NotImplementedError


@for_types(_add_to_labels)
def _add_to_labels_overload(d: Any, label: Any, used: Any, zero: Any, sums: Any) -> Any:
    if d.dtype is types.float32:

        def add(d: Any, label: Any, used: Any, zero: Any, sums: Sums) -> Any:
            # Products of two float32 are exact in float64.
            wide = widen(d)
            dot, mass = add_label(wide, widen(label), sums.dot, sums.mass)
            drop = add_drop(wide, used, widen(constants(d).scale_down), sums.drop)
            return dot, sums.dot_low, mass, sums.mass_low, drop, sums.drop_low

    else:

        def add(d: Any, label: Any, used: Any, zero: Any, sums: Sums) -> Any:
            own, _ = add_label(d, label, zero, zero)
            dot, dot_low = add_term(sums.dot, sums.dot_low, own)
            mass, mass_low = add_term(sums.mass, sums.mass_low, label)
            drop = add_drop(d, used, constants(d).scale_down, zero)
            drop, drop_low = add_term(sums.drop, sums.drop_low, drop)
            return dot, dot_low, mass, mass_low, drop, drop_low

    return add


# ---- across the lanes of each example, for all examples of a unit ---------------------------
#
# The registers of two examples become one whose halves belong to one example each, by joining
# neighbouring lanes; after log2(lanes) rounds each lane is an example. What lies in the registers
# of examples that there are not stays in their lanes.

_EIGHT = np.int64(8)  # float64 numbers of a register
_HALF_FIELD = np.int64(512)
FIELD_SIZE = 2 * 512
"""Bytes of the memory where a sum of all examples is left: two times eight registers."""

FIELDS_SIZE = 5 * FIELD_SIZE
"""Bytes of the memory where all sums of all examples are left."""


@inlined
def largest_of_examples(place: Any, zero: Any) -> Any:
    """The maximum of each example, from one register for each; they are used up."""
    n = lanes_of(zero)
    size = size_of(zero)
    while n > 1:
        n //= 2
        for i in range(n):
            a = load(place + 2 * i * size, zero)
            b = load(place + (2 * i + 1) * size, zero)
            store(place + i * size, maximum(evens(a, b), odds(a, b)))
    return load(place, zero)


@inlined
def _fold(place: Any, like: Any) -> Any:
    """The sums of the lanes of eight float64 registers."""
    n = _EIGHT
    size = size_of(like)
    while n > 1:
        n //= 2
        for i in range(n):
            a = load(place + 2 * i * size, like)
            b = load(place + (2 * i + 1) * size, like)
            store(place + i * size, evens(a, b) + odds(a, b))
    return load(place, like)


@inlined
def _fold_pairs(place: Any, like: Any) -> Any:
    """Like `_fold`, for pairs; the low parts lie behind the eight registers."""
    n = _EIGHT
    size = size_of(like)
    lows = place + _HALF_FIELD
    while n > 1:
        n //= 2
        for i in range(n):
            a = load(place + 2 * i * size, like)
            b = load(place + (2 * i + 1) * size, like)
            a_low = load(lows + 2 * i * size, like)
            b_low = load(lows + (2 * i + 1) * size, like)
            high, low = add_pairs(evens(a, b), evens(a_low, b_low), odds(a, b), odds(a_low, b_low))
            store(place + i * size, high)
            store(lows + i * size, low)
    return load(place, like), load(lows, like)


def _leave(place: Any, r: int, high: Any, low: Any, zero: Any) -> None:
    """Leave a sum of example `r` in memory."""
    raise NotImplementedError


@for_types(_leave)
def _leave_overload(place: Any, r: int, high: Any, low: Any, zero: Any) -> Any:
    if zero.dtype is types.float32:

        def leave(place: Any, r: int, high: Any, low: Any, zero: Any) -> None:
            store(place + r * size_of(zero), low_half(high) + high_half(high))

    else:

        def leave(place: Any, r: int, high: Any, low: Any, zero: Any) -> None:
            store(place + r * size_of(zero), high)
            store(place + (_HALF_FIELD + r * size_of(zero)), low)

    return leave


def _gather(place: Any, i: int, zero: Any, part: Any) -> Any:
    """The sums of examples from number `i` on that `_leave` left, as a pair like `part`."""
    raise NotImplementedError


@for_types(_gather)
def _gather_overload(place: Any, i: int, zero: Any, part: Any) -> Any:
    if zero.dtype is types.float32:

        def gather(place: Any, i: int, zero: Any, part: Any) -> Any:
            like = low_half(part)
            return join(_fold(place, like), _fold(place + _HALF_FIELD, like)), part

        return gather
    return lambda place, i, zero, part: _fold_pairs(place, part)


@inlined
def leave_sums(place: Any, r: int, sums: Sums, zero: Any, dense: Any) -> None:
    """Leave the sums of example `r` in memory, until those of all examples are there."""
    store(place + r * size_of(_F64), np.float64(sums.count))
    _leave(place + FIELD_SIZE, r, sums.rest, sums.rest_low, zero)
    if dense is not None:
        _leave(place + 2 * FIELD_SIZE, r, sums.dot, sums.dot_low, zero)
        _leave(place + 3 * FIELD_SIZE, r, sums.mass, sums.mass_low, zero)
        _leave(place + 4 * FIELD_SIZE, r, sums.drop, sums.drop_low, zero)


def _leave_columns(place: Any, high: Any, low: Any, zero: Any) -> None:
    """Leave a sum of all examples in memory."""
    raise NotImplementedError


@for_types(_leave_columns)
def _leave_columns_overload(place: Any, high: Any, low: Any, zero: Any) -> Any:
    if zero.dtype is types.float32:
        return lambda place, high, low, zero: store(place, high)

    def leave(place: Any, high: Any, low: Any, zero: Any) -> None:
        store(place, high)
        store(place + _HALF_FIELD, low)

    return leave


def _load_columns(place: Any, i: int, zero: Any, part: Any) -> Any:
    """The sums of examples from number `i` on that `_leave_columns` left, as a pair."""
    raise NotImplementedError


@for_types(_load_columns)
def _load_columns_overload(place: Any, i: int, zero: Any, part: Any) -> Any:
    if zero.dtype is types.float32:
        return lambda place, i, zero, part: (load(place + i * size_of(_F64), part), part)

    def pair(place: Any, i: int, zero: Any, part: Any) -> Any:
        own = place + i * size_of(_F64)
        return load(own, part), load(own + _HALF_FIELD, part)

    return pair


@inlined
def leave_columns(place: Any, sums: Sums, zero: Any, dense: Any) -> None:
    """Leave the sums of columns in memory."""
    store(place, widen(sums.count))
    _leave_columns(place + FIELD_SIZE, sums.rest, sums.rest_low, zero)
    if dense is not None:
        _leave_columns(place + 2 * FIELD_SIZE, sums.dot, sums.dot_low, zero)
        _leave_columns(place + 3 * FIELD_SIZE, sums.mass, sums.mass_low, zero)
        _leave_columns(place + 4 * FIELD_SIZE, sums.drop, sums.drop_low, zero)


@inlined
def _sum_of(place: Any, i: int, zero: Any, part: Any, rows: Any) -> Any:
    """One of the sums of examples from number `i` on, as a pair."""
    if rows is None:
        return _load_columns(place, i, zero, part)
    return _gather(place, i, zero, part)


@inlined
def state_of(place: Any, top: Any, i: int, size: int, zero: Any, dense: Any, rows: Any) -> State:
    """The states of examples from number `i` on, of `size` classes each.

    They come from what was left in memory; `top` are their maxima, in float64 and as many as one
    register holds.
    """
    c = constants(zero)
    scale, unscale = widen(c.scale_down), widen(c.scale_up)
    nothing = part_of(top)
    count = load(place + i * size_of(_F64), nothing)
    rest, rest_low = _sum_of(place + FIELD_SIZE, i, zero, nothing, rows)
    dot, dot_low = nothing, nothing
    mass, mass_low = nothing, nothing
    drop, drop_low = nothing, nothing
    if dense is not None:
        dot, dot_low = _sum_of(place + 2 * FIELD_SIZE, i, zero, nothing, rows)
        mass, mass_low = _sum_of(place + 3 * FIELD_SIZE, i, zero, nothing, rows)
        drop, drop_low = _sum_of(place + 4 * FIELD_SIZE, i, zero, nothing, rows)
    return State(
        top,
        count,
        rest * scale,
        rest_low * scale,
        dot,
        dot_low,
        mass,
        mass_low,
        drop * unscale,
        drop_low * unscale,
        where(count == count, np.float64(size), 0.0),
    )


def finish_lanes(state: State, zero: Any) -> Finished:
    """What states have come to, as accurately as is worth it for the dtype of `zero`."""
    raise NotImplementedError


@for_types(finish_lanes)
def _finish_lanes(state: State, zero: Any) -> Any:
    if zero.dtype is types.float32:
        return lambda state, zero: finish_float32(state)
    return lambda state, zero: finish(state)


def _tree(high: Any, low: Any) -> Any:
    """The float64 pair that the lanes of a pair of registers add up to, as a fixed tree."""
    raise NotImplementedError


@for_types(_tree)
def _tree_overload(high: Any, low: Any) -> Any:
    if high.lanes == 1:
        return lambda high, low: (first_lane(high), first_lane(low))

    def halve(high: Any, low: Any) -> Any:
        h, c = add_pairs(low_half(high), low_half(low), high_half(high), high_half(low))
        return _tree(h, c)

    return halve


@inlined
def total_of_lanes(high: Any, low: Any) -> tuple[float, float]:
    """The sum of the float64 pairs in the lanes of two registers, as a pair."""
    return _tree(high, low)
