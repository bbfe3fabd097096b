"""Operands brought into the caches before they are needed, where a class axis is far from contiguous.

A unit of columns reads a cache line or two of each class. Where classes lie a large power of two
apart, all of those lines share a few places in the caches, and no hardware sees them coming. A
*panel* is a copy of several neighbouring units with all of their classes: each class is one run of
memory, and the runs stand in the caches side by side. While the units of one panel are solved, the
next one is brought, a little at a time; its memory is asked for some runs ahead.

Few, contiguous classes are turned to runs by transposing them, a whole panel in one call; gradients
by such logits are collected in a panel, too.
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
    load_all,
    prefetch,
    size_of,
    store,
    store_all,
    zeros,
)
from .memory import start_of
from .stream import stage_for
from .vector import REGISTER

_I64 = np.int64(0)

AHEAD = 16
"""How many registers, or as many runs as hold them, are asked for before they are copied."""


class Panels(NamedTuple):
    """A task's two panels: the one that is being solved, and the one that comes next.

    Attributes
    ----------
    numbers
        Where the int64 of `Numbers` lie.
    logits, labels
        Where the copies are: those of the two sides, one behind the other.
    output
        Where the gradients of a panel are collected.
    """

    numbers: Any
    logits: Any
    labels: Any
    output: Any


class Numbers(NamedTuple):
    """What is where.

    Attributes
    ----------
    logits, labels
        The addresses of the unit's first class in the panel, 0 for a unit that is in none.
    item, units, side
        The first unit and the number of units of the panel that is there, and on which side it is.
    next_item, next_units
        The same of the panel that comes.
    row, piece
        What is to be brought next: a class, and the unit whose register of it.
    """

    logits: Any
    labels: Any
    item: Any
    units: Any
    side: Any
    next_item: Any
    next_units: Any
    row: Any
    piece: Any


_COUNT = len(Numbers._fields)

NUMBERS_SIZE = 8 * _COUNT
"""Bytes of the numbers."""


@inlined
def get_numbers(panels: Panels) -> Numbers:
    """The numbers of a task's panels."""
    return Numbers(*load_all(panels.numbers, _COUNT, size_of(_I64), _I64))


@inlined
def _next_panel(p: Any, item: int, last: int) -> tuple[int, int]:
    """The first unit and the number of units of the panel of unit `item`.

    If that unit is not full, it is the panel of the one after.
    """
    full = p.inner // p.group
    if item % p.units == full:
        item += 1
    units = min(p.panel, full - item % p.units, last - item)
    return item, units


@inlined
def open_panels(p: Any, first: int, last: int, panels: Panels) -> None:
    """Make panels ready for the units of a task."""
    item, units = _next_panel(p, first, last)
    numbers = Numbers(_I64, _I64, _I64, _I64, _I64, item, units, _I64, _I64)
    store_all(panels.numbers, size_of(_I64), numbers)


@inlined
def _bring_run(
    p: Any, t: Any, item: int, row: int, n: int, ahead: int, target: Any, zero: Any
) -> None:
    """Copy `n` registers of a class."""
    number = size_of(first_lane(zero))
    step = size_of(zero)
    place = start_of(t, item // p.units, item % p.units) + row * t.classes
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
    now = get_numbers(panels)
    units = now.next_units
    row = now.row
    piece = now.piece
    side = (1 - now.side) * p.pitch * p.classes
    rows = max(1, AHEAD // max(1, units))
    while n > 0 and row < p.classes and units > 0:
        take = min(n, units - piece)
        # Behind the last classes come the first ones of the panel after.
        after = rows
        beyond = 0
        if row + rows >= p.classes:
            after = rows - p.classes
            beyond = units
        target = side + row * p.pitch + piece * size_of(zero)
        item = now.next_item + piece
        ahead = after * p.logits.classes + beyond * p.logits.unit
        _bring_run(p, p.logits, item, row, take, ahead, panels.logits + target, zero)
        if dense is not None:
            ahead = after * p.labels.classes + beyond * p.labels.unit
            _bring_run(p, p.labels, item, row, take, ahead, panels.labels + target, zero)
        n -= take
        piece += take
        if piece == units:
            piece = 0
            row += 1
    store_all(
        panels.numbers,
        size_of(_I64),
        Numbers(
            now.logits,
            now.labels,
            now.item,
            now.units,
            now.side,
            now.next_item,
            units,
            row,
            piece,
        ),
    )


@inlined
def _bring_turned(p: Any, t: Any, item: int, units: int, target: Any, zero: Any) -> None:
    """Copy a whole panel, the classes of which are next to each other."""
    place = start_of(t, item // p.units, item % p.units)
    lanes = units * lanes_of(zero)
    call_at(t.mover, (place, t.example, t.vector, lanes, p.classes, target, p.pitch, np.nan))


@inlined
def enter(p: Any, item: int, last: int, panels: Panels, zero: Any, dense: Any) -> None:
    """See to it that a unit's panel is there, if it is to have one."""
    now = get_numbers(panels)
    if item == now.next_item and now.next_units > 0:
        side = _I64
        if p.turned != 0:
            units = now.next_units
            _bring_turned(p, p.logits, item, units, panels.logits, zero)
            if dense is not None:
                _bring_turned(p, p.labels, item, units, panels.labels, zero)
        else:
            bring(p, p.panel * p.classes, panels, zero, dense)
            side = 1 - now.side
        next_item, next_units = _next_panel(p, item + now.next_units, last)
        now = Numbers(
            now.logits,
            now.labels,
            item,
            now.next_units,
            side,
            next_item,
            next_units,
            _I64,
            _I64,
        )
    nth = item - now.item
    logits = _I64
    labels = _I64
    if 0 <= nth < now.units:
        offset = now.side * p.pitch * p.classes + nth * size_of(zero)
        logits = address_of(panels.logits + offset)
        labels = address_of(panels.labels + offset)
    store_all(
        panels.numbers,
        size_of(_I64),
        Numbers(
            logits,
            labels,
            now.item,
            now.units,
            now.side,
            now.next_item,
            now.next_units,
            now.row,
            now.piece,
        ),
    )


@inlined
def collected(p: Any, panels: Panels) -> int:
    """Where the gradients of a unit are collected, 0 if nowhere."""
    here: int = get_numbers(panels).logits
    if p.collected != 0 and here != 0:
        here += address_of(panels.output) - address_of(panels.logits)
        return here
    return 0


@inlined
def leave(p: Any, item: int, panels: Panels, stage: Any, zero: Any) -> None:
    """Write the gradients of a panel, if `item` is its last unit."""
    now = get_numbers(panels)
    t = p.d_logits
    if now.logits != 0 and item == now.item + now.units - 1:
        lanes = now.units * lanes_of(zero)
        place = start_of(t, now.item // p.units, now.item % p.units)
        if t.stream != 0:
            place = stage_for(stage, place, lanes * t.example)
        call_at(t.mover, (place, t.example, t.vector, lanes, p.classes, panels.output, p.pitch))
