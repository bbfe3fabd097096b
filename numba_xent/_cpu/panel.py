"""Operands brought into the caches before they are needed, where a class axis is far from contiguous.

A unit of columns reads a cache line or two of each class. Where classes lie a large power of two
apart, all of those lines share a few places in the caches, and no hardware sees them coming. A
*panel* is a copy of several neighbouring units with all of their classes: each class is one run of
memory, and the runs stand in the caches side by side. While the units of one panel are solved, the
next one is brought, a little at a time; its memory is asked for some runs ahead.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .compile import inlined
from .intrinsics import (
    address_of,
    call_at,
    first_lane,
    lanes_of,
    load,
    prefetch,
    size_of,
    store,
    zeros,
)
from .memory import start_of
from .vector import REGISTER

_I64 = np.int64(0)

AHEAD = 16
"""How many registers, or as many runs as hold them, are asked for before they are copied."""


class Panels(NamedTuple):
    """A task's two panels: the one that is being solved, and the one that comes next.

    Attributes
    ----------
    numbers
        Where int64 lie, by the names below.
    logits, labels
        Where the copies are: those of the two sides, one behind the other.
    """

    numbers: Any
    logits: Any
    labels: Any


LOGITS, LABELS, ITEM, UNITS, SIDE, NEXT_ITEM, NEXT_UNITS, ROW, PIECE = range(9)
"""The addresses of the unit's first class in the panel, 0 for one that is in none. The first unit
and the number of units of the panel that is there, and on which side it is; the same of the one
that comes, and what is to be brought next: a unit's register of a class."""

NUMBERS = 9


@inlined
def number_of(panels: Panels, which: int) -> int:
    """One of the numbers."""
    return load(panels.numbers + which * size_of(_I64), _I64)


@inlined
def _set(panels: Panels, which: int, value: int) -> None:
    store(panels.numbers + which * size_of(_I64), np.int64(value))


@inlined
def _announce(p: Any, item: int, last: int, panels: Panels) -> None:
    """Say which panel comes next: that of unit `item`, or of the one after if it is not full."""
    full = p.inner // p.group
    if item % p.units == full:
        item += 1
    units = min(p.panel, full - item % p.units, last - item)
    _set(panels, NEXT_ITEM, item)
    _set(panels, NEXT_UNITS, max(0, units))
    _set(panels, ROW, 0)
    _set(panels, PIECE, 0)


@inlined
def open_panels(p: Any, first: int, last: int, panels: Panels) -> None:
    """Make panels ready for the units of a task."""
    _set(panels, LOGITS, 0)
    _set(panels, LABELS, 0)
    _set(panels, ITEM, -1)
    _set(panels, UNITS, 0)
    _set(panels, SIDE, 0)
    _announce(p, first, last, panels)


@inlined
def _bring_run(
    p: Any, t: Any, item: int, row: int, piece: int, n: int, ahead: int, target: Any, zero: Any
) -> None:
    """Copy `n` registers of a class."""
    number = size_of(first_lane(zero))
    step = size_of(zero)
    place = start_of(t, item // p.units, item % p.units + piece) + row * t.classes
    if t.plain != 0:
        machine = zeros("float32", 1)
        for i in range(0, n * step, REGISTER):
            prefetch(place + (ahead + i))
            store(target + i, load(place + i, machine))
    else:
        size = t.example
        own = REGISTER // number
        for i in range(0, n * lanes_of(zero) * size, REGISTER):
            prefetch(place + (ahead + i))
        count = n * lanes_of(zero) // own
        call_at(t.mover, (place, size, own * size, own, count, target, _I64 + REGISTER, np.nan))


@inlined
def bring(p: Any, n: int, panels: Panels, zero: Any, dense: Any) -> None:
    """Bring so many registers of the panel that comes next."""
    item = number_of(panels, NEXT_ITEM)
    units = number_of(panels, NEXT_UNITS)
    row = number_of(panels, ROW)
    piece = number_of(panels, PIECE)
    side = (1 - number_of(panels, SIDE)) * p.pitch * p.classes
    rows = max(1, AHEAD // max(1, units))
    while n > 0 and row < p.classes and units > 0:
        take = min(n, units - piece)
        # Behind the last classes come the first ones of the panel after.
        after = rows if row + rows < p.classes else rows - p.classes
        beyond = 0 if after > 0 else units
        target = side + row * p.pitch + piece * size_of(zero)
        ahead = after * p.logits.classes + beyond * p.logits.unit
        _bring_run(p, p.logits, item, row, piece, take, ahead, panels.logits + target, zero)
        if dense is not None:
            ahead = after * p.labels.classes + beyond * p.labels.unit
            _bring_run(p, p.labels, item, row, piece, take, ahead, panels.labels + target, zero)
        n -= take
        piece += take
        if piece == units:
            piece = 0
            row += 1
    _set(panels, ROW, row)
    _set(panels, PIECE, piece)


@inlined
def enter(p: Any, item: int, last: int, panels: Panels, zero: Any, dense: Any) -> None:
    """See to it that a unit's panel is there, if it is to have one."""
    if item == number_of(panels, NEXT_ITEM) and number_of(panels, NEXT_UNITS) > 0:
        bring(p, p.panel * p.classes, panels, zero, dense)
        units = number_of(panels, NEXT_UNITS)
        _set(panels, ITEM, item)
        _set(panels, UNITS, units)
        _set(panels, SIDE, 1 - number_of(panels, SIDE))
        _announce(p, item + units, last, panels)
    nth = item - number_of(panels, ITEM)
    logits = 0
    labels = 0
    if 0 <= nth < number_of(panels, UNITS):
        offset = number_of(panels, SIDE) * p.pitch * p.classes + nth * size_of(zero)
        logits = address_of(panels.logits + offset)
        labels = address_of(panels.labels + offset)
    _set(panels, LOGITS, logits)
    _set(panels, LABELS, labels)
