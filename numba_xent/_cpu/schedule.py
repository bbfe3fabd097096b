"""One unit of work, from logits to losses and gradients, in one pass over memory.

Rows and columns are the same schedule. A unit is a few neighbouring examples, at most as many as a
register has lanes. For rows the lanes are classes, one example after the other, and what is known
of each is brought together at the end; for columns the lanes are the examples themselves, so that
loads stay contiguous whichever axis is the contiguous one. From there on everything is the same,
for all examples of the unit at once.

The classes are cut into chunks that stay in L1 between the search for the maximum and the sum of
exponentials. The exponentials stand against the maximum so far: a chunk with a larger one begins a
new state, to be merged with the one before. They are kept until the gradient is written, which
therefore needs neither the logits nor ``exp`` again; only examples too long for the scratch memory
read their logits twice.

A unit reads all that it needs of the logits before it writes the same elements of the gradient:
the gradient may overwrite the logits.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .._math.cross_entropy import (
    Finished,
    State,
    dense_loss,
    finish,
    merge,
    probability,
    sparse_label_gradient,
    sparse_loss,
)
from .._math.primitives import where, widen
from .backward import write_gradients
from .compile import inlined
from .examples import (
    SCALE,
    labels_of,
    leave_logits_at_labels,
    logits_at_labels,
    loss_class_by_class,
    read_optional,
    slot_of,
    write_numbers,
)
from .forward import state_of
from .intrinsics import (
    any_lane,
    convert,
    lane_numbers,
    load_all,
    pointer,
    size_of,
    spread,
    store,
    store_all,
)
from .panel import enter
from .unit import chunk_of, logits_panel
from .workspace import SAVED, Workspace

# Most units are solved at a stroke. Those in several pieces take three phases, each of which is over
# for all pieces before the next begins: a state of each piece, the losses, and the gradients.
WHOLE, STATES, LOSSES, GRADIENTS = 0, 1, 2, 3


@inlined
def solve(
    p: Any,
    item: int,
    last: int,
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
        The number of the piece, counted over all units of all outer indices, and that of the first
        one that is not to be solved by the same task.
    work
        Scratch memory.
    zero
        A register of zeros of the compute dtype.
    dense, gradient
        None, or not None if there is one label per class, and if a gradient is wanted.
    rows
        Not None for rows, None for columns.
    """
    unit, piece = item // p.pieces, item % p.pieces
    o, u = unit // p.units, unit % p.units
    count = min(p.group, p.inner - u * p.group)
    like = widen(zero)
    size = SAVED * size_of(like)
    own = pointer(p.results) + item * size
    phase = p.now
    if phase == LOSSES and piece != 0:
        return
    if rows is None and p.panel != 0:
        enter(p, item, last, work.panels, zero, dense)
    row = Finished(like, like, like)
    scale = like
    at_label = like
    indices = work.indices
    if phase != GRADIENTS:
        if phase != LOSSES:
            end = (last // p.pieces) * p.chunks + (last % p.pieces) * p.piece
            state = state_of(p, o, u, piece, end, count, work, zero, dense, gradient, rows)
        else:
            state = State(*load_all(own, SAVED, like))
            for i in range(1, p.pieces):
                state = merge(state, State(*load_all(own + i * size, SAVED, like)))
        if phase == STATES:
            store_all(own, state)
            return
        row, scale, at_label = _conclude(p, o, u, count, state, work, zero, dense, gradient, rows)
        if phase == LOSSES:
            store_all(own, (row.top, row.log_sum, row.inverse, scale, at_label))
            return
    else:
        top, log_sum, inverse, scale, at_label = load_all(own + -piece * size, 5, like)
        row = Finished(top, log_sum, inverse)
    if gradient is not None:
        if dense is None:
            indices = labels_of(p, o, u, count, work)
        store(slot_of(work, SCALE, zero), spread(scale, zero))
        value = spread(at_label, zero)
        for c in range(piece * p.piece, min(p.chunks, (piece + 1) * p.piece)):
            chunk = chunk_of(p, c, count, zero, rows)
            write_gradients(p, o, u, c, chunk, count, row, indices, value, work, zero, dense, rows)


@inlined
def _conclude(
    p: Any,
    o: int,
    u: int,
    count: int,
    state: State,
    work: Workspace,
    zero: Any,
    dense: Any,
    gradient: Any,
    rows: Any,
) -> tuple[Finished, Any, Any]:
    """Write the losses of a unit.

    Returns what its gradients need: the row, their scale, and the gradient of the labels' classes.
    """
    if dense is None:
        labels = labels_of(p, o, u, count, work)
        panel = logits_panel(work, rows)
        leave_logits_at_labels(p, o, u, count, labels, panel, work, zero)
    row = finish(state)
    z = row.top
    if dense is not None:
        loss = dense_loss(state, row, p.keep_label, p.uniform)
        real = widen(lane_numbers(zero)) < np.float64(count)
        lost = (loss != loss) & (row.log_sum == row.log_sum) & real
        if any_lane(lost):
            loss = where(lost, loss_class_by_class(p, o, u, count, row, work, zero), loss)
    else:
        z = logits_at_labels(work, zero)
        loss = sparse_loss(z, row)
    weight = widen(zero)
    if gradient is not None or p.raw == 0:
        weight = read_optional(p.weights, o, u, count, work, zero)
    if p.raw == 0:
        # Rounded first, so that it is the weight times what unweighted losses are.
        loss = widen(convert(loss, zero)) * weight
    write_numbers(p.loss, o, u, count, loss, work, zero)
    if gradient is None:
        return row, weight, weight
    scale = read_optional(p.upstream, o, u, count, work, zero) * weight * p.scale
    if dense is not None:
        return row, scale, scale
    return row, scale, sparse_label_gradient(probability(z, row), scale)
