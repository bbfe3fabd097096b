"""The forward pass: from the logits and labels of a unit to its sums."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .._math.primitives import widen
from .backward import waiting_chunk
from .chunk import max_of_chunk, sum_columns, sum_row
from .compile import inlined
from .examples import SLOT, of_example, slot_of
from .extent import examples_of, start_of
from .intrinsics import any_lane, lanes_of, load, size_of, spread, store
from .lanes import largest_of_examples, leave_columns, leave_sums, no_sums
from .panel import bring
from .tile import Chunk, Tile, buffer_tile, fetch, is_direct, row_tile
from .unit import (
    chunk_of,
    fetch_chunk,
    kept_chunk,
    labels_panel,
    logits_buffer,
    logits_panel,
    number_of_chunk,
    operand,
    place_of,
)
from .workspace import Workspace

BROUGHT = 8
"""Registers of columns that are summed before as many of the next panel are brought."""

_F64, _I64 = np.float64(0), np.int64(0)


@inlined
def _max_of_unit(
    p: Any, o: int, u: int, c: int, count: int, work: Workspace, zero: Any, rows: Any
) -> Any:
    """The maximum of a chunk of each example, in the lanes of a register."""
    chunk = chunk_of(p, c, count, zero, rows)
    if rows is None:
        panel = logits_panel(work, rows)
        fetch_chunk(p, p.logits, o, u, 0, chunk, -np.inf, work.logits, panel, work.stored, rows)
        x = operand(p, p.logits, o, u, 0, chunk, work.logits, panel, work.stored, rows)
        return max_of_chunk(x, chunk.tail, zero)
    number = number_of_chunk(p, o, u, c)
    if load(work.known, _I64) != number:
        for r in range(count):
            buffer = logits_buffer(p, number, r, work)
            fetch_chunk(p, p.logits, o, u, r, chunk, -np.inf, buffer, 0, work.stored, rows)
            x = operand(p, p.logits, o, u, r, chunk, buffer, 0, work.stored, rows)
            store(work.maxima + r * size_of(zero), max_of_chunk(x, chunk.tail, zero))
    return largest_of_examples(work.maxima, zero)


class _Next(NamedTuple):
    """The chunks of rows whose maximum is found while other chunks are summed.

    Attributes
    ----------
    number
        Counted over all units; -1 if there are none.
    place
        Where that of the first row lies.
    rows, full, tail
        How many rows there are, and full registers and a tail in each.
    """

    number: int
    place: Any
    rows: int
    full: int
    tail: int


@inlined
def _following(p: Any, o: int, u: int, c: int, last: int, count: int, zero: Any) -> _Next:
    """What comes after chunk `c` of the `count` rows of a unit."""
    place = start_of(p, p.logits, o, u)
    rows = count
    next_u, next_o, next_c = u, o, c + 1
    if next_c == p.chunks:
        next_c, next_u = 0, u + 1
        if next_u == p.units:
            next_o, next_u = o + 1, 0
        rows = examples_of(p, next_u)
    number = number_of_chunk(p, next_o, next_u, next_c)
    chunk = chunk_of(p, next_c, count, zero, True)
    # After a unit that is not full, not all rows of the next would be met.
    if number >= last or rows > count:
        return _Next(-1, place, 0, 0, 0)
    place = place_of(p, p.logits, next_o, next_u, 0, chunk)
    return _Next(number, place, rows, chunk.full, chunk.tail)


@inlined
def _fetch_following(p: Any, coming: _Next, r: int, work: Workspace, zero: Any) -> Tile:
    """The chunk of row `r` that comes next: where it lies, or copied to its buffer."""
    place = coming.place + r * p.logits.example
    chunk = Chunk(0, coming.full, lanes_of(zero), coming.tail)
    if is_direct(p.logits, chunk, p.logits.classes, work.stored):
        return row_tile(place, coming.full, coming.tail, work.stored)
    buffer = logits_buffer(p, coming.number, r, work)
    fetch(p.logits, place, chunk, p.logits.classes, -np.inf, buffer, work.stored)
    return buffer_tile(chunk, buffer, work.stored)


@inlined
def _sum_rows(
    p: Any,
    o: int,
    u: int,
    c: int,
    end: int,
    last: int,
    count: int,
    tops: Any,
    work: Workspace,
    zero: Any,
    dense: Any,
    gradient: Any,
) -> int:
    """Sum the chunks of rows that share the maximum of chunk `c`, and say what is next."""
    labels = None
    kept = None
    waiting = None
    stage = None
    if gradient is not None:
        stage = work.stage
    after = c
    known = -1
    coming = _following(p, o, u, c, last, count, zero)
    for r in range(count):
        top = of_example(True, slot_of(work, SLOT, zero), r, zero)
        sums = no_sums(_I64, zero)
        after = c
        while True:
            chunk = chunk_of(p, after, count, zero, True)
            number = number_of_chunk(p, o, u, after)
            x = operand(
                p, p.logits, o, u, r, chunk, logits_buffer(p, number, r, work), 0, work.stored, True
            )
            if dense is not None:
                buffer = work.labels + r * work.example
                fetch_chunk(p, p.labels, o, u, r, chunk, 0.0, buffer, 0, work.stored, True)
                labels = operand(p, p.labels, o, u, r, chunk, buffer, 0, work.stored, True)
            if gradient is not None:
                kept = kept_chunk(p, r, chunk, work, zero)
                waiting = waiting_chunk(p, o, u, r, chunk, after, work, zero, dense)
            if p.chunks > 1:
                coming = _following(p, o, u, after, last, count, zero)
            # What is not there, or is shorter, is found later; this chunk stands in for it.
            found = coming.number >= 0 and r < coming.rows and coming.full >= chunk.full
            following, tail = x, chunk.tail
            if found:
                following, tail = _fetch_following(p, coming, r, work, zero), coming.tail
            sums, highest = sum_row(
                p,
                x,
                following,
                tail,
                labels,
                kept,
                chunk.tail,
                top,
                waiting,
                stage,
                zero,
                sums,
            )
            store(work.tops + after * lanes_of(zero) * size_of(_F64), widen(tops))
            after += 1
            if found:
                known = coming.number
            elif after < end:
                chunk = chunk_of(p, after, count, zero, True)
                known = number_of_chunk(p, o, u, after)
                buffer = logits_buffer(p, known, r, work)
                fetch_chunk(p, p.logits, o, u, r, chunk, -np.inf, buffer, 0, work.stored, True)
                x = operand(p, p.logits, o, u, r, chunk, buffer, 0, work.stored, True)
                highest = max_of_chunk(x, chunk.tail, zero)
            store(work.maxima + r * size_of(zero), highest)
            if after == end or any_lane(_exceeds(highest, top)):
                break
        leave_sums(work.sums, r, sums, zero, dense)
    store(work.known, np.int64(known))
    return after


@inlined
def _sum_columns(
    p: Any,
    o: int,
    u: int,
    c: int,
    count: int,
    tops: Any,
    work: Workspace,
    zero: Any,
    dense: Any,
    gradient: Any,
) -> None:
    """Sum a chunk of columns."""
    labels = None
    kept = None
    chunk = chunk_of(p, c, count, zero, None)
    sums = no_sums(spread(np.float64(chunk.full), zero), zero)
    panel = logits_panel(work, None)
    x = operand(p, p.logits, o, u, 0, chunk, work.logits, panel, work.stored, None)
    if dense is not None:
        panel = labels_panel(work, None)
        fetch_chunk(p, p.labels, o, u, 0, chunk, 0.0, work.labels, panel, work.stored, None)
        labels = operand(p, p.labels, o, u, 0, chunk, work.labels, panel, work.stored, None)
    if gradient is not None:
        kept = kept_chunk(p, 0, chunk, work, zero)
    full = chunk.full
    brings = p.side != 0
    # As many registers as there is room for what they add to the sums, see `Workspace`.
    step = BROUGHT if brings else lanes_of(zero)
    for v in range(0, full, step):
        n = min(step, full - v)
        if brings:
            bring(p, n, work.panels, zero, dense)
        sums = sum_columns(x, v, v + n, labels, kept, work.terms, work.distances, tops, zero, sums)
    store(work.tops + c * lanes_of(zero) * size_of(_F64), widen(tops))
    leave_columns(work.sums, sums, zero, dense)


@inlined
def _exceeds(top: Any, before: Any) -> Any:
    """Whether there is a larger maximum, or NaN."""
    return (top > before) | (top != top)


@inlined
def sum_chunks(
    p: Any,
    o: int,
    u: int,
    c: int,
    end: int,
    last: int,
    count: int,
    work: Workspace,
    zero: Any,
    dense: Any,
    gradient: Any,
    rows: Any,
) -> int:
    """Sum the chunks up to `end` that share the maximum of chunk `c`, and say what is next.

    Their sums are left in memory, their maxima where those of the last of them are kept. In columns
    each chunk stands against its own maxima: what an example comes to must not depend on which of
    its neighbours has a larger one.
    """
    tops = _max_of_unit(p, o, u, c, count, work, zero, rows)
    store(slot_of(work, SLOT, zero), tops)
    if rows is not None:
        return _sum_rows(p, o, u, c, end, last, count, tops, work, zero, dense, gradient)
    _sum_columns(p, o, u, c, count, tops, work, zero, dense, gradient)
    return c + 1
