"""One unit of work, from logits to losses and gradients, in one pass over memory.

Rows and columns are the same schedule. A unit is a few neighbouring examples, at most as many as a
register has lanes. For rows the lanes are classes, one example after the other, and what is known
of each is brought together at the end; for columns the lanes are the examples themselves, so that
loads stay contiguous whichever axis is the contiguous one. From there on everything is the same,
for all examples of the unit at once.

The classes are cut into chunks that stay in L1 between the search for the maximum and the sum of
exponentials. In rows the exponentials stand against the maximum so far: a chunk with a larger one
begins a new state, to be merged with the one before. In columns each chunk does, as its examples
must not depend on each other. The exponentials are kept until the gradient is written, which
therefore needs neither the logits nor ``exp`` again; only examples too long for the scratch memory
read their logits twice.

A unit reads all that it needs of the logits before it writes the same elements of the gradient:
the gradient may overwrite the logits.

Gradients of rows that are written past the caches wait: they are computed in the loop that sums the
next unit, a few registers of each in turn, so that memory is read and written at the same time.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .._math.cross_entropy import (
    Finished,
    State,
    dense_loss,
    merge,
    probability,
    sparse_label_gradient,
    sparse_loss,
)
from .._math.primitives import where, widen
from .backward import prepare_gradients, write_gradients
from .compile import inlined
from .examples import (
    AT_LABEL,
    OTHER,
    SCALE,
    labels_of,
    leave_logits_at_labels,
    logits_at_labels,
    loss_class_by_class,
    read_optional,
    slot_of,
    write_numbers,
)
from .extent import examples_of, start_of
from .forward import sum_chunks
from .halves import narrowed
from .intrinsics import (
    any_lane,
    convert,
    lane_numbers,
    lanes_of,
    load,
    load_all,
    part_of,
    pointer,
    size_of,
    spread,
    store,
    store_all,
)
from .lanes import finish_lanes, state_of
from .memory import LINE
from .order import GRADIENTS, LOSSES, STATES, WHOLE
from .panel import enter, leave
from .stream import drain
from .unit import chunk_of, classes_before, labels_panel, logits_panel
from .workspace import ROW, SAVED, Workspace

_F64 = np.float64(0)


@inlined
def solve(
    p: Any,
    item: int,
    last: int,
    o: int,
    u: int,
    piece: int,
    work: Workspace,
    zero: Any,
    dense: Any,
    gradient: Any,
    rows: Any,
) -> None:
    """Losses and gradients of one piece of a unit.

    Parameters
    ----------
    p
        The problem, a record as :mod:`.record` describes it. Its results are what the phases hand
        to each other, `SAVED` registers for each piece.
    item, last
        The number of the piece in the order in which they are solved, and that of the first one
        that is not to be solved by the same task.
    o, u, piece
        The outer index, the unit, and the number of the piece in it.
    work
        Scratch memory.
    zero
        A register of zeros of the compute dtype.
    dense, gradient
        None, or not None if there is one label per class, and if a gradient is wanted.
    rows
        Not None for rows, None for columns.
    """
    count = examples_of(p, u)
    if p.now == LOSSES and piece != 0:
        return
    if rows is None and p.panel != 0 and p.now != LOSSES:
        enter(p, item, last, piece, work.panels, zero, dense)
    like = widen(zero)
    row = work.row
    states = work.state
    if p.pieces > 1:
        nth = o * p.units + u - p.begin
        states = pointer(p.results) + nth * p.pieces * (SAVED * size_of(like))
        row = states + size_of(like)
    if p.now != GRADIENTS:
        _forward(p, o, u, piece, last, count, states, row, work, zero, dense, gradient, rows)
    elif rows is None:
        top = load(states + piece * (SAVED * size_of(like)), like)
        store(work.tops + piece * size_of(like), top)
    if gradient is not None and p.now in (WHOLE, GRADIENTS):
        indices = work.indices
        if dense is None:
            indices = labels_of(p, o, u, count, work)
        top, log_sum, inverse, scale, at_label = load_all(row, ROW, size_of(like), like)
        store(slot_of(work, SCALE, zero), spread(scale, zero))
        store(slot_of(work, AT_LABEL, zero), narrowed(spread(at_label, zero), work.stored))
        own = Finished(top, log_sum, inverse)
        waits = rows is not None and _may_wait(p, item, last, u, count)
        for c in range(piece * p.piece, min(p.chunks, (piece + 1) * p.piece)):
            chunk = chunk_of(p, c, count, zero, rows)
            prepare_gradients(p, o, u, c, chunk, count, own, work, zero, rows)
            if not waits:
                write_gradients(p, o, u, c, chunk, count, own, indices, work, zero, dense, rows)
        store(work.waiting, np.int64(waits))
        if rows is None and p.collected != 0:
            drain(work.stage, p.classes * size_of(zero) // LINE)
            leave(p, item, o, u, piece, work, zero)


@inlined
def _may_wait(p: Any, item: int, last: int, u: int, count: int) -> bool:
    """Whether gradients are written while the next unit is summed, which has as many examples."""
    following = u + 1 if u + 1 < p.units else 0
    waits: bool = (
        p.waits != 0
        and p.d_logits.stream != 0
        and item + 1 < last
        and examples_of(p, following) == count
    )
    return waits


@inlined
def _forward(
    p: Any,
    o: int,
    u: int,
    piece: int,
    last: int,
    count: int,
    states: Any,
    row: Any,
    work: Workspace,
    zero: Any,
    dense: Any,
    gradient: Any,
    rows: Any,
) -> None:
    """The state of a piece of a unit; its losses, if that is all of the unit or the last phase.

    Once summed, as many examples are gone on with at a time as fill a register of the machine: what
    is known of a whole unit would not fit its registers.
    """
    part = part_of(widen(zero))
    step = lanes_of(zero) * size_of(_F64)
    own = states + piece * SAVED * step
    first = piece * p.piece
    end = min(p.chunks, first + p.piece)
    stop = (last // p.pieces) * p.chunks + (last % p.pieces) * p.piece
    c = first
    while True:
        after = end
        if p.now != LOSSES:
            after = sum_chunks(p, o, u, c, end, stop, count, work, zero, dense, gradient, rows)
        saved = work.state if after < end else own
        ends = after == end and p.now != STATES
        if ends and dense is None:
            labels = labels_of(p, o, u, count, work)
            panel = logits_panel(work, rows)
            leave_logits_at_labels(p, o, u, count, labels, panel, work, zero)
        size = classes_before(p, after, zero, rows) - classes_before(p, c, zero, rows)
        for i in range(0, count, lanes_of(part)):
            lane = i * size_of(_F64)
            if p.now == LOSSES:
                state = _state_of_pieces(p, states + lane, step, part)
            else:
                top = load(work.tops + ((after - 1) * step + lane), part)
                state = state_of(work.sums, top, i, size, zero, dense, rows)
                if c != first:
                    state = merge(_saved(work.state + lane, step, part), state)
            if ends:
                _conclude(p, o, u, i, count, state, row + lane, work, zero, dense, gradient, rows)
            else:
                store_all(saved + lane, step, state)
        if after == end:
            return
        c = after


@inlined
def _saved(place: Any, step: int, part: Any) -> State:
    """A state that was left in memory."""
    return State(*load_all(place, SAVED, step, part))


@inlined
def _state_of_pieces(p: Any, place: Any, step: int, part: Any) -> State:
    """The state of a whole unit, from those of its pieces."""
    state = _saved(place, step, part)
    for n in range(1, p.pieces):
        state = merge(state, _saved(place + n * SAVED * step, step, part))
    return state


@inlined
def _conclude(
    p: Any,
    o: int,
    u: int,
    i: int,
    count: int,
    state: State,
    row: Any,
    work: Workspace,
    zero: Any,
    dense: Any,
    gradient: Any,
    rows: Any,
) -> None:
    """Write the losses of a unit's examples from number `i` on, and what their gradients need."""
    part = part_of(zero)
    n = min(count - i, lanes_of(part))
    buffer = slot_of(work, OTHER, zero)
    own = finish_lanes(state, zero)
    z = own.top
    if dense is not None:
        loss = dense_loss(state, own, p.keep_label, p.uniform)
        real = lane_numbers(own.top) < np.float64(n)
        lost = (loss != loss) & (own.log_sum == own.log_sum) & real
        if any_lane(lost):
            panels = (logits_panel(work, rows), labels_panel(work, rows))
            each = loss_class_by_class(p, o, u, panels, i, n, own, buffer, part)
            loss = where(lost, each, loss)
    else:
        z = logits_at_labels(i, work, zero)
        loss = sparse_loss(z, own)
    weight = widen(part)
    if gradient is not None or p.raw == 0:
        place = start_of(p, p.weights, o, u) + i * p.weights.example
        weight = read_optional(p.weights, place, n, buffer, part)
    if p.raw == 0:
        # Rounded first, so that it is the weight times what unweighted losses are.
        loss = widen(convert(loss, zero)) * weight
    place = start_of(p, p.loss, o, u) + i * p.loss.example
    write_numbers(p.loss, place, n, loss, buffer, part)
    if gradient is not None:
        place = start_of(p, p.upstream, o, u) + i * p.upstream.example
        scale = read_optional(p.upstream, place, n, buffer, part) * weight * p.scale
        at_label = scale
        if dense is None:
            at_label = sparse_label_gradient(probability(z, own), scale)
        step = lanes_of(zero) * size_of(_F64)
        store_all(row, step, (own.top, own.log_sum, own.inverse, scale, at_label))
