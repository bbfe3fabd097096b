"""From the lanes of registers to the states of examples.

For rows the lanes hold different classes of one example, and merge; for columns each lane is an
example. Where a function takes `rows`, it is None for columns, and Numba compiles one side only.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba.core import types
from numba.extending import overload, register_jitable

from .._math.compensated import add_pairs, total_of
from .._math.constants import constants
from .._math.cross_entropy import State
from .._math.primitives import maximum, where, widen
from .intrinsics import first_lane, high_half, low_half, spread
from .vector import Vector


def _sum_lanes(high: Any, low: Any) -> Any:
    """The float64 pair that the lanes of a pair of registers add up to, as a fixed tree."""
    raise NotImplementedError


def _tree(high: Any, low: Any) -> Any:
    """Like `_sum_lanes`, for float64 registers."""
    raise NotImplementedError


@overload(_tree, strict=False)
def _tree_overload(high: Any, low: Any) -> Any:
    if not isinstance(high, Vector):
        return lambda high, low: (high, low)
    if high.lanes == 1:
        return lambda high, low: (first_lane(high), first_lane(low))

    def halve(high: Any, low: Any) -> Any:
        h, c = add_pairs(low_half(high), low_half(low), high_half(high), high_half(low))
        return _tree(h, c)

    return halve


def _add_up(x: Any) -> Any:
    """The sum of the lanes of a register, as a fixed tree."""
    raise NotImplementedError


@overload(_add_up, strict=False)
def _add_up_overload(x: Any) -> Any:
    if x.lanes == 1:
        return lambda x: first_lane(x)
    return lambda x: _add_up(low_half(x) + high_half(x))


def _largest(x: Any) -> Any:
    """The maximum of the lanes of a register."""
    raise NotImplementedError


@overload(_largest, strict=False)
def _largest_overload(x: Any) -> Any:
    if x.lanes == 1:
        return lambda x: first_lane(x)
    return lambda x: _largest(maximum(low_half(x), high_half(x)))


@register_jitable
def total_of_lanes(high: Any, low: Any) -> float:
    """The sum of float64 pairs: those in the lanes of two registers, or just one."""
    total, lost = _tree(high, low)
    return total_of(total, lost)


@overload(_sum_lanes, strict=False)
def _sum_lanes_overload(high: Any, low: Any) -> Any:
    # The pairs of float32 fit into float64, where adding 16 of them loses nothing that matters.
    if high.dtype is types.float32:
        return lambda high, low: (_add_up(total_of(widen(high), widen(low))), 0.0)
    return lambda high, low: _tree(high, low)


def _widen_pair(high: Any, low: Any) -> Any:
    """A pair of registers as a pair of float64 registers."""
    raise NotImplementedError


@overload(_widen_pair, strict=False)
def _widen_pair_overload(high: Any, low: Any) -> Any:
    if high.dtype is types.float32:
        return lambda high, low: (total_of(widen(high), widen(low)), widen(low) * 0.0)
    return lambda high, low: (high, low)


class Sums(NamedTuple):
    """The sums of a chunk in the lanes of registers; ``rest`` and ``drop`` are scaled."""

    count: Any
    rest: Any
    rest_low: Any
    dot: Any
    dot_low: Any
    mass: Any
    mass_low: Any
    drop: Any
    drop_low: Any


@register_jitable
def each(rows: Any, x: Any) -> Any:
    """The numbers of the unit's examples, from a register that holds one in each lane."""
    if rows is None:
        return x
    return first_lane(x)


@register_jitable
def share_top(rows: Any, top: Any) -> Any:
    """The maximum that the exponentials stand against: of all lanes, or of each."""
    if rows is None:
        return top
    return spread(widen(_largest(top)), top)


@register_jitable
def _add_lanes(rows: Any, high: Any, low: Any) -> Any:
    """The float64 pairs of the unit's examples."""
    if rows is None:
        return _widen_pair(high, low)
    return _sum_lanes(high, low)


@register_jitable
def to_state(rows: Any, top: Any, sums: Sums, size: int, dense: Any) -> State:
    """The state (or states) that the lanes stand for, of `size` classes each.

    Without one label per class (`dense` is None) there is nothing to sum over labels.
    """
    c = constants(top)
    scale, unscale = widen(c.scale_down), widen(c.scale_up)
    nothing = where(top == top, c.zero, c.zero)
    count, _ = _add_lanes(rows, sums.count, nothing)
    rest, rest_low = _add_lanes(rows, sums.rest, sums.rest_low)
    highest = each(rows, widen(top))
    if dense is None:
        none = where(count == count, 0.0, 0.0)
        return State(
            highest, count, rest * scale, rest_low * scale, none, none, none, none, none, none, none
        )
    dot, dot_low = _add_lanes(rows, sums.dot, sums.dot_low)
    mass, mass_low = _add_lanes(rows, sums.mass, sums.mass_low)
    drop, drop_low = _add_lanes(rows, sums.drop, sums.drop_low)
    return State(
        highest,
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
