"""Operands brought into the caches before they are needed, where a class axis is far from contiguous.

A unit of columns reads a cache line or two of each class. Where classes lie a large power of two
apart, all of those lines share a few places in the caches, and no hardware sees them coming. A
*panel* is a copy of several neighbouring units, with all classes of a piece: each class is one run of
memory, and the runs stand in the caches side by side. While the units of one panel are solved, the
next one is brought, a little at a time; its memory is asked for some runs ahead. Where two panels
would be too large, there is one, which is brought at a stroke. Gradients that cannot be written by
whole cache lines as they come take the place of the logits, and are written by runs.

Few, contiguous classes are turned to runs by transposing them, a whole panel in one call, and so are
gradients by such logits, in their place.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .compile import inlined
from .extent import full_units, start_of
from .intrinsics import (
    address_of,
    call_at,
    first_lane,
    lanes_of,
    load,
    load_all,
    pointer,
    prefetch,
    size_of,
    store,
    store_all,
    store_part,
    store_streaming,
    zeros,
)
from .order import LOSSES, turn_of
from .stream import stage_for
from .vector import REGISTER

_I64 = np.int64(0)

AHEAD = 16
"""How many registers, or as many runs as hold them, are asked for before they are copied."""


class Panels(NamedTuple):
    """A task's panels: the one that is being solved, and perhaps another, the one that comes next.

    Attributes
    ----------
    numbers
        Where the int64 of `Numbers` lie.
    logits, labels
        Where the copies are: those of the two sides, one behind the other.
    task
        The number of the task.
    """

    numbers: Any
    logits: Any
    labels: Any
    task: int


class Numbers(NamedTuple):
    """What is where.

    Attributes
    ----------
    logits, labels
        The addresses of the unit's first class, as if the panel had all of them; 0 for a unit that
        is in none.
    item, units, side
        When the panel that is there is solved first, the number of its units, and where its side
        begins, in bytes from the first one.
    next_item, next_units, next_side, next_classes
        The same of the panel that comes, and the number of its classes.
    from_logits, from_labels
        The addresses of the first number of that one.
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
    next_side: Any
    next_classes: Any
    from_logits: Any
    from_labels: Any
    row: Any
    piece: Any


_COUNT = len(Numbers._fields)
_ROW = 8 * Numbers._fields.index("row")

NUMBERS_SIZE = 8 * _COUNT
"""Bytes of the numbers."""


@inlined
def get_numbers(panels: Panels) -> Numbers:
    """The numbers of a task's panels."""
    return Numbers(*load_all(panels.numbers, _COUNT, size_of(_I64), _I64))


@inlined
def _coming(p: Any, item: int, last: int, panels: Panels, now: Numbers) -> Numbers:
    """The numbers once the panel that comes next is that of number `item`; they are left, too.

    If that unit may be in no panel, it is the panel of the next one that may.
    """
    begin, end = full_units(p)
    if begin >= end:
        item = last
    unit, piece, following = turn_of(p, item)
    u = unit % p.units
    while item < last and not begin <= u < end:
        item += min(p.units - u if u >= end else begin - u, following)
        unit, piece, following = turn_of(p, item)
        u = unit % p.units
    # Panels of runs end where they would if there was one task, most often with a run.
    most = p.panel if p.run == 0 else p.panel - u % p.panel
    o = unit // p.units
    first = piece * p.piece * p.chunk
    coming = Numbers(
        now.logits,
        now.labels,
        now.item,
        now.units,
        now.side,
        item,
        min(most, end - u, following, last - item),
        p.side - now.side,
        min(p.panel_classes, p.classes - first),
        address_of(start_of(p, p.logits, o, u) + first * p.logits.classes),
        address_of(start_of(p, p.labels, o, u) + first * p.labels.classes),
        _I64,
        _I64,
    )
    store_all(panels.numbers, size_of(_I64), coming)
    return coming


@inlined
def open_panels(p: Any, first: int, last: int, panels: Panels) -> None:
    """Make panels ready for what a task solves, or see to it that there seem to be none."""
    nothing = Numbers(_I64, _I64, _I64, _I64, _I64, _I64, _I64, _I64, _I64, _I64, _I64, _I64, _I64)
    if p.panel != 0 and p.now != LOSSES:
        _coming(p, first, last, panels, nothing)
    else:
        store_all(panels.numbers, size_of(_I64), nothing)


@inlined
def _bring_run(t: Any, place: Any, n: int, ahead: int, target: Any, zero: Any) -> None:
    """Copy `n` registers of a class."""
    number = size_of(first_lane(zero))
    step = size_of(zero)
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
    side = now.next_side
    rows = max(1, AHEAD // max(1, units))
    classes = now.next_classes
    while n > 0 and row < classes and units > 0:
        take = min(n, units - piece)
        # Behind the last classes come the first ones of the panel after.
        after = rows
        beyond = 0
        if row + rows >= classes:
            after = rows - classes
            beyond = units
        target = side + row * p.pitch + piece * size_of(zero)
        place = pointer(now.from_logits) + (row * p.logits.classes + piece * p.logits.unit)
        ahead = after * p.logits.classes + beyond * p.logits.unit
        _bring_run(p.logits, place, take, ahead, panels.logits + target, zero)
        if dense is not None:
            place = pointer(now.from_labels) + (row * p.labels.classes + piece * p.labels.unit)
            ahead = after * p.labels.classes + beyond * p.labels.unit
            _bring_run(p.labels, place, take, ahead, panels.labels + target, zero)
        n -= take
        piece += take
        if piece == units:
            piece = 0
            row += 1
    store_all(panels.numbers + _ROW, size_of(_I64), (row, piece))


@inlined
def _bring_turned(p: Any, t: Any, place: int, units: int, target: Any, zero: Any) -> None:
    """Copy a whole panel, the classes of which are next to each other."""
    lanes = units * lanes_of(zero)
    call_at(t.mover, (place, t.example, t.vector, lanes, p.classes, target, p.pitch, np.nan))


@inlined
def enter(p: Any, item: int, last: int, piece: int, panels: Panels, zero: Any, dense: Any) -> None:
    """See to it that the panel of a piece of a unit is there, if it is to have one."""
    now = get_numbers(panels)
    logits = _I64
    labels = _I64
    if item == now.next_item and now.next_units > 0:
        units = now.next_units
        if p.run != 0:
            call_at(p.bring_runs, (p.own, panels.task, item, units))
        elif p.turned != 0:
            _bring_turned(p, p.logits, now.from_logits, units, panels.logits, zero)
            if dense is not None:
                _bring_turned(p, p.labels, now.from_labels, units, panels.labels, zero)
        else:
            bring(p, p.panel * p.panel_classes, panels, zero, dense)
        there = Numbers(
            _I64, _I64, item, units, now.next_side, _I64, _I64, _I64, _I64, _I64, _I64, _I64, _I64
        )
        now = _coming(p, item + units, last, panels, there)
        # Classes are counted from the first one of the unit, whatever piece the panel has.
        offset = now.side - piece * p.piece * p.chunk * p.pitch
        logits = address_of(panels.logits + offset)
        labels = address_of(panels.labels + offset)
    elif now.logits != 0 and item < now.item + now.units:
        logits = now.logits + size_of(zero)
        labels = now.labels + size_of(zero)
    store_all(panels.numbers, size_of(_I64), (logits, labels))


@inlined
def _leave_run(t: Any, place: Any, size: int, source: Any) -> None:
    """Write the gradients by a class of a panel; others may write the rest of the lines at its ends."""
    line = zeros("float32", 1)
    number = size_of(first_lane(line))
    begin = min(size, -address_of(place) % REGISTER)
    last = begin + (size - begin) // REGISTER * REGISTER
    store_part(place, load(source, line), begin // number)
    for i in range(begin, last, REGISTER):
        if t.stream != 0:
            store_streaming(place + i, load(source + i, line))
        else:
            store(place + i, load(source + i, line))
    store_part(place + last, load(source + last, line), (size - last) // number)


@inlined
def leave(p: Any, item: int, o: int, u: int, piece: int, work: Any, zero: Any) -> None:
    """Write the gradients of a panel, if this unit is its last one."""
    panels = work.panels
    now = get_numbers(panels)
    t = p.d_logits
    if now.logits == 0 or item != now.item + now.units - 1:
        return
    if p.run != 0:
        call_at(p.leave_runs, (p.own, panels.task, item - now.units + 1, now.units))
        return
    lanes = now.units * lanes_of(zero)
    place = start_of(p, t, o, u - now.units + 1)
    if p.turned != 0:
        if t.stream != 0:
            place = stage_for(work.stage, place, lanes * t.example)
        call_at(t.mover, (place, t.example, t.vector, lanes, p.classes, panels.logits, p.pitch))
        return
    first = piece * p.piece * p.chunk
    place = place + first * t.classes
    source = panels.logits + now.side
    for c in range(min(p.panel_classes, p.classes - first)):
        _leave_run(t, place + c * t.classes, lanes * t.example, source + c * p.pitch)
