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

from typing import Any, NamedTuple

import numpy as np
from numba import literal_unroll

from .._math.constants import constants
from .._math.cross_entropy import (
    Finished,
    State,
    class_loss,
    dense_loss,
    finish,
    merge,
    probability,
    smooth,
    sparse_label_gradient,
    sparse_loss,
)
from .._math.exponential import exp
from .._math.primitives import where, widen
from .chunk import (
    AHEAD,
    Chunk,
    Tile,
    exp_of_chunk,
    fetch,
    gradient_of_chunk,
    is_direct,
    label_gradient_of_chunk,
    max_of_chunk,
    put,
    row_tile,
    scale_chunk,
    sum_columns,
    sum_row,
    tile_of,
)
from .compile import inlined, merged
from .intrinsics import (
    any_lane,
    convert,
    first_lane,
    lane_numbers,
    lanes_of,
    load,
    load_part,
    pointer,
    size_of,
    spread,
    store,
    store_part,
)
from .lanes import FIELD_SIZE, gather_sums, largest_of_examples, leave_sums, no_sums, to_state
from .memory import read_indices, read_tile, write_tile
from .stream import Stage, stage_for

_F64, _I64 = np.float64(0), np.int64(0)
STAGE_SIZE = 16 << 10


class Workspace(NamedTuple):
    """A task's scratch memory.

    Attributes
    ----------
    logits, labels
        A chunk of each example of a unit, and its tail.
    output
        A chunk of one example, and its tail.
    exponentials
        Those of the whole unit, or of a chunk of one example, and the tails.
    sums
        What is known of each example, before it is brought together.
    maxima
        The maximum in each lane of each example, of the chunk that comes next.
    known
        Where an int64 lies: the number of that chunk, counted over all units, or -1.
    examples
        Four registers for numbers of the unit's examples, see the names below.
    indices
        The sparse labels of the unit's examples.
    tops
        What the exponentials of each chunk stand against, for each example.
    example
        Bytes from one example's chunk in the buffers to the next.
    stage
        Where outputs wait that are written past the caches.
    """

    logits: Any
    labels: Any
    output: Any
    exponentials: Any
    sums: Any
    maxima: Any
    known: Any
    examples: Any
    indices: Any
    tops: Any
    example: int
    stage: Stage


@inlined
def _copies(p: Any) -> int:
    """How many chunks of a unit there may be in a buffer: one of each example, or one."""
    return p.group if p.rows != 0 else 1


@inlined
def _needs(p: Any, zero: Any, gradient: Any) -> tuple[int, int, int]:
    """Bytes of an example's chunk, of the kept exponentials, and of the stage."""
    register = size_of(zero)
    example = (min(p.chunk, p.vectors) + 1) * register
    if gradient is None:
        return example, 0, 0
    kept = _copies(p) * example
    if p.chunks > 1 and p.keep != 0:
        kept = (p.vectors + 1) * register
    return example, kept, max(STAGE_SIZE, _copies(p) * example) + 2 * register


@inlined
def workspace_size(p: Any, zero: Any, gradient: Any) -> int:
    """Bytes of scratch memory that a task needs, wherever it begins."""
    example, kept, stage = _needs(p, zero, gradient)
    lanes = lanes_of(zero)
    numbers = 5 * FIELD_SIZE + (lanes + 4) * size_of(zero)
    numbers += (lanes + 4 + p.chunks * lanes) * size_of(_F64)
    return (2 * _copies(p) + 1) * example + kept + stage + numbers + 4 * size_of(zero)


@inlined
def lay_out(p: Any, address: int, zero: Any, gradient: Any) -> Workspace:
    """Divide scratch memory, from its first aligned address on."""
    register = size_of(zero)
    example, kept, stage = _needs(p, zero, gradient)
    stages = pointer((address + register - 1) // register * register)
    logits = stages + stage
    labels = logits + _copies(p) * example
    output = labels + _copies(p) * example
    exponentials = output + example
    sums = exponentials + kept
    maxima = sums + 5 * FIELD_SIZE
    examples = maxima + lanes_of(zero) * register
    tops = examples + 4 * register
    indices = tops + p.chunks * lanes_of(zero) * size_of(_F64)
    known = indices + lanes_of(zero) * size_of(_I64)
    numbers = known + size_of(_I64)
    return Workspace(
        logits,
        labels,
        output,
        exponentials,
        sums,
        maxima,
        known,
        examples,
        indices,
        tops,
        example,
        Stage(numbers, stages, stage - register),
    )


# ---- numbers of the unit's examples ---------------------------------------------------------

# Registers of Workspace.examples.
_SLOT, _FACTOR, _SCALE, _OTHER = 0, 1, 2, 3


@inlined
def _number(work: Workspace, which: int, zero: Any) -> Any:
    """The place of one of the registers for numbers of examples."""
    return work.examples + which * size_of(zero)


@inlined
def _of_example(rows: Any, place: Any, r: int, zero: Any) -> Any:
    """A register of numbers of examples (columns), or that of example `r` in all lanes (rows)."""
    if rows is None:
        return load(place, zero)
    return spread(widen(load(place + r * size_of(first_lane(zero)), first_lane(zero))), zero)


@inlined
def _is_contiguous(t: Any, zero: Any) -> bool:
    return t.plain != 0 and t.example == size_of(first_lane(zero))


@inlined
def start_of(t: Any, o: int, u: int) -> Any:
    """Where a unit's elements of a tensor begin."""
    return pointer(t.address) + (o * t.outer + u * t.unit)


@inlined
def read_numbers(t: Any, place: Any, count: int, buffer: Any, zero: Any) -> Any:
    """A number of each of `count` examples, in the lanes of a float64 register; 0 in the others."""
    if _is_contiguous(t, zero):
        return widen(load_part(place, count, zero))
    read_tile(t, place, t.example, count, 1, 0.0, buffer, zero)
    return widen(load(buffer, zero))


@inlined
def _read_optional(t: Any, o: int, u: int, count: int, work: Workspace, zero: Any) -> Any:
    """Like `read_numbers`; ones where there is no tensor."""
    if t.address == 0:
        return widen(zero + constants(zero).one)
    return read_numbers(t, start_of(t, o, u), count, _number(work, _SLOT, zero), zero)


@inlined
def _write_numbers(
    t: Any, o: int, u: int, count: int, value: Any, work: Workspace, zero: Any
) -> None:
    """Write a number of each example of the unit."""
    place = start_of(t, o, u)
    if _is_contiguous(t, zero):
        store_part(place, spread(value, zero), count)
    else:
        slot = _number(work, _SLOT, zero)
        store(slot, spread(value, zero))
        write_tile(t, place, t.example, count, 1, slot, zero)


@inlined
def _labels_of(p: Any, o: int, u: int, count: int, work: Workspace) -> Any:
    """Where the unit's sparse labels lie, as int64."""
    place = start_of(p.labels, o, u)
    if p.labels.plain != 0 and p.labels.example == size_of(_I64):
        return place
    read_indices(p.labels, place, count, work.indices)
    return work.indices


@inlined
def _logits_at_labels(
    p: Any, o: int, u: int, count: int, indices: Any, work: Workspace, zero: Any
) -> Any:
    """The logit of each example's label, as float64 in the lanes."""
    x = start_of(p.logits, o, u)
    number = size_of(first_lane(zero))
    slot = _number(work, _SLOT, zero)
    other = _number(work, _OTHER, zero)
    store(slot, zero)
    for i in range(count):
        label = load(indices + i * size_of(_I64), _I64)
        place = x + (label * p.logits.classes + i * p.logits.example)
        if p.logits.plain != 0:
            z = load(place, first_lane(zero))
        else:
            read_tile(p.logits, place, p.logits.example, 1, 1, np.nan, other, zero)
            z = load(other, first_lane(zero))
        store(slot + i * number, z)
    return widen(load(slot, zero))


@inlined
def _loss_class_by_class(
    p: Any, o: int, u: int, count: int, row: Finished, work: Workspace, zero: Any
) -> Any:
    """The loss as a plain sum of its terms, for labels whose sum is not finite."""
    x = start_of(p.logits, o, u)
    y = start_of(p.labels, o, u)
    slot = _number(work, _SLOT, zero)
    total = widen(zero)
    for j in range(p.classes):
        z = read_numbers(p.logits, x + j * p.logits.classes, count, slot, zero)
        label = read_numbers(p.labels, y + j * p.labels.classes, count, slot, zero)
        total = total + class_loss(smooth(label, p.keep_label, p.uniform), z, row)
    return total


# ---- chunks of a unit -----------------------------------------------------------------------


@inlined
def _chunk(p: Any, c: int, count: int, zero: Any, rows: Any) -> Chunk:
    """The extent of a chunk of a unit."""
    first = c * p.chunk
    tail = p.tail if c == p.chunks - 1 else 0
    lanes = lanes_of(zero) if rows is not None else count
    return Chunk(first, min(p.chunk, p.vectors - first), lanes, tail)


@inlined
def _classes_before(p: Any, c: int, zero: Any, rows: Any) -> int:
    """How many classes of an example lie in the chunks before one."""
    if c == p.chunks:
        return p.classes
    return c * p.chunk * lanes_of(zero) if rows is not None else c * p.chunk


@inlined
def _lane(t: Any, rows: Any) -> int:
    """The step from one lane to the next."""
    return t.example if rows is None else t.classes


@inlined
def _passes(count: int, rows: Any) -> int:
    """How many times the classes of a unit are gone through: once for each example, or once."""
    return 1 if rows is None else count


@inlined
def _place(t: Any, o: int, u: int, r: int, chunk: Chunk) -> Any:
    """Where a chunk of an example of a tensor begins."""
    return start_of(t, o, u) + (r * t.example + chunk.first * t.vector)


@inlined
def _fetch(
    t: Any, o: int, u: int, r: int, chunk: Chunk, padding: Any, buffer: Any, zero: Any, rows: Any
) -> None:
    """Copy a chunk of an operand to its buffer, if it cannot be loaded where it lies."""
    fetch(t, _place(t, o, u, r, chunk), chunk, _lane(t, rows), padding, buffer, zero)


@inlined
def _operand(
    p: Any, t: Any, o: int, u: int, r: int, chunk: Chunk, buffer: Any, zero: Any, rows: Any
) -> Tile:
    """A chunk of an operand, once fetched."""
    ahead = t.unit if p.chunks == 1 else p.chunk * t.vector
    if rows is not None:
        ahead += AHEAD
    return tile_of(t, _place(t, o, u, r, chunk), chunk, _lane(t, rows), ahead, buffer, zero)


@inlined
def _kept(p: Any, r: int, chunk: Chunk, work: Workspace, zero: Any) -> Tile:
    """Where the exponentials of a chunk are kept."""
    register = size_of(zero)
    start = work.exponentials + r * work.example
    if p.keep != 0:
        start = start + chunk.first * register
    return Tile(start, register, chunk.full, start + chunk.full * register, 0, 0)


# ---- the forward pass -----------------------------------------------------------------------


@inlined
def _number_of(p: Any, o: int, u: int, c: int) -> int:
    """The number of a chunk, counted over all units."""
    return (o * p.units + u) * p.chunks + c


@merged
def _max_of_unit(
    p: Any, o: int, u: int, c: int, count: int, work: Workspace, zero: Any, rows: Any
) -> Any:
    """The maximum of a chunk of each example, in the lanes of a register."""
    chunk = _chunk(p, c, count, zero, rows)
    if rows is None:
        _fetch(p.logits, o, u, 0, chunk, -np.inf, work.logits, zero, rows)
        x = _operand(p, p.logits, o, u, 0, chunk, work.logits, zero, rows)
        return max_of_chunk(x, chunk.tail, zero)
    if load(work.known, _I64) != _number_of(p, o, u, c):
        for r in range(count):
            buffer = work.logits + r * work.example
            _fetch(p.logits, o, u, r, chunk, -np.inf, buffer, zero, rows)
            x = _operand(p, p.logits, o, u, r, chunk, buffer, zero, rows)
            store(work.maxima + r * size_of(zero), max_of_chunk(x, chunk.tail, zero))
    return largest_of_examples(work.maxima, zero)


class _Next(NamedTuple):
    """The chunks of rows whose maximum is found while other chunks are summed.

    Attributes
    ----------
    number
        Counted over all units; -1 if there are none, or if they must be copied first.
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
    """What comes after chunk `c` of the rows of a unit."""
    place = start_of(p.logits, o, u)
    next_u, next_o, next_c = u, o, c + 1
    if next_c == p.chunks:
        next_c, next_u = 0, u + 1
        if next_u == p.units:
            next_o, next_u = o + 1, 0
        count = min(p.group, p.inner - next_u * p.group)
    if _number_of(p, next_o, next_u, next_c) >= last:
        return _Next(-1, place, 0, 0, 0)
    chunk = _chunk(p, next_c, 1, zero, True)
    if not is_direct(p.logits, chunk, p.logits.classes, zero):
        return _Next(-1, place, 0, 0, 0)
    place = _place(p.logits, next_o, next_u, 0, chunk)
    return _Next(_number_of(p, next_o, next_u, next_c), place, count, chunk.full, chunk.tail)


@merged
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
) -> tuple[int, Any]:
    """Sum the chunks that share the maximum of chunk `c`; returns what is next, too."""
    labels = None
    kept = None
    stage = None
    if gradient is not None:
        stage = work.stage
    after = c
    known = -1
    coming = _following(p, o, u, c, last, count, zero)
    for r in range(count):
        top = _of_example(True, _number(work, _SLOT, zero), r, zero)
        sums = no_sums(_I64, zero)
        after = c
        while True:
            chunk = _chunk(p, after, count, zero, True)
            x = _operand(p, p.logits, o, u, r, chunk, work.logits + r * work.example, zero, True)
            if dense is not None:
                buffer = work.labels + r * work.example
                _fetch(p.labels, o, u, r, chunk, 0.0, buffer, zero, True)
                labels = _operand(p, p.labels, o, u, r, chunk, buffer, zero, True)
            if gradient is not None:
                kept = _kept(p, r, chunk, work, zero)
            if p.chunks > 1:
                coming = _following(p, o, u, after, last, count, zero)
            # What is not there, or is shorter, is found later; this chunk stands in for it.
            found = coming.number >= 0 and r < coming.rows and coming.full >= chunk.full
            following, tail = x, chunk.tail
            if found:
                place = coming.place + r * p.logits.example
                following = row_tile(place, coming.full, coming.tail, zero)
                tail = coming.tail
            sums, highest = sum_row(
                x, following, tail, labels, kept, chunk.tail, top, stage, zero, sums
            )
            store(work.tops + after * lanes_of(zero) * size_of(_F64), widen(tops))
            after += 1
            if found:
                known = coming.number
            elif after < end:
                chunk = _chunk(p, after, count, zero, True)
                _fetch(p.logits, o, u, r, chunk, -np.inf, work.logits, zero, True)
                x = _operand(p, p.logits, o, u, r, chunk, work.logits, zero, True)
                highest = max_of_chunk(x, chunk.tail, zero)
                known = _number_of(p, o, u, after)
            store(work.maxima + r * size_of(zero), highest)
            if after == end or any_lane(_exceeds(highest, top)):
                break
        leave_sums(work.sums, r, sums, zero, dense)
    store(work.known, np.int64(known))
    return after, gather_sums(work.sums, zero, dense)


@inlined
def _sum_columns(
    p: Any,
    o: int,
    u: int,
    c: int,
    end: int,
    count: int,
    tops: Any,
    work: Workspace,
    zero: Any,
    dense: Any,
    gradient: Any,
) -> tuple[int, Any]:
    """Sum the chunks that share the maxima of chunk `c`; returns what is next, too."""
    labels = None
    kept = None
    after = c
    sums = no_sums(zero, zero)
    while True:
        chunk = _chunk(p, after, count, zero, None)
        x = _operand(p, p.logits, o, u, 0, chunk, work.logits, zero, None)
        if dense is not None:
            _fetch(p.labels, o, u, 0, chunk, 0.0, work.labels, zero, None)
            labels = _operand(p, p.labels, o, u, 0, chunk, work.labels, zero, None)
        if gradient is not None:
            kept = _kept(p, 0, chunk, work, zero)
        sums = sum_columns(x, labels, kept, tops, zero, sums)
        store(work.tops + after * lanes_of(zero) * size_of(_F64), widen(tops))
        after += 1
        if after == end:
            break
        if any_lane(_exceeds(_max_of_unit(p, o, u, after, count, work, zero, None), tops)):
            break
    return after, sums


@inlined
def _state_from(
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
) -> tuple[int, State]:
    """The state of the chunks up to `end` that share the maximum of chunk `c`, and what is next."""
    tops = _max_of_unit(p, o, u, c, count, work, zero, rows)
    store(_number(work, _SLOT, zero), tops)
    if rows is not None:
        after, sums = _sum_rows(p, o, u, c, end, last, count, tops, work, zero, dense, gradient)
    else:
        after, sums = _sum_columns(p, o, u, c, end, count, tops, work, zero, dense, gradient)
    size = _classes_before(p, after, zero, rows) - _classes_before(p, c, zero, rows)
    return after, to_state(tops, sums, size)


@inlined
def _exceeds(top: Any, before: Any) -> Any:
    """Whether there is a larger maximum, or NaN."""
    return (top > before) | (top != top)


# ---- one unit -------------------------------------------------------------------------------
#
# Most units are solved at a stroke. Those in several pieces take three phases, each of which is over
# for all pieces before the next begins: a state of each piece, the losses, and the gradients.

WHOLE, STATES, LOSSES, GRADIENTS = 0, 1, 2, 3
SAVED = len(State._fields)
"""Registers of float64 that are handed from phase to phase for each piece."""


@inlined
def _state_of(
    p: Any,
    o: int,
    u: int,
    piece: int,
    last: int,
    count: int,
    work: Workspace,
    zero: Any,
    dense: Any,
    gradient: Any,
    rows: Any,
) -> State:
    """The state of a piece of a unit."""
    first = piece * p.piece
    end = min(p.chunks, first + p.piece)
    after = first
    while after < end:
        c = after
        after, part = _state_from(p, o, u, c, end, last, count, work, zero, dense, gradient, rows)
        # Most units have one chunk: nothing to merge.
        if c == first:
            state = part
        else:
            state = merge(state, part)
    return state


@inlined
def _save(place: Any, values: Any) -> None:
    """Put registers of float64 next to each other."""
    for i, value in enumerate(literal_unroll(values)):
        store(place + i * size_of(value), value)


@inlined
def _load_state(place: Any, like: Any) -> State:
    """A state that was saved."""
    n = size_of(like)
    return State(
        load(place, like),
        load(place + n, like),
        load(place + 2 * n, like),
        load(place + 3 * n, like),
        load(place + 4 * n, like),
        load(place + 5 * n, like),
        load(place + 6 * n, like),
        load(place + 7 * n, like),
        load(place + 8 * n, like),
        load(place + 9 * n, like),
        load(place + 10 * n, like),
    )


@merged
def solve(
    p: Any,
    item: int,
    last: int,
    phase: int,
    saved: Any,
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
        The problem, a record as :mod:`.record` describes it.
    item, last
        The number of the piece, counted over all units of all outer indices, and that of the first
        one that is not to be solved by the same task.
    phase
        What is to be done.
    saved
        What the phases hand to each other, `SAVED` registers for each piece.
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
    own = saved + item * size
    if phase == LOSSES and piece != 0:
        return
    row = Finished(like, like, like)
    scale = like
    at_label = like
    indices = work.indices
    if phase != GRADIENTS:
        if phase != LOSSES:
            end = (last // p.pieces) * p.chunks + (last % p.pieces) * p.piece
            state = _state_of(p, o, u, piece, end, count, work, zero, dense, gradient, rows)
        else:
            state = _load_state(own, like)
            for i in range(1, p.pieces):
                state = merge(state, _load_state(own + i * size, like))
        if phase == STATES:
            _save(own, state)
            return
        row, scale, at_label = _conclude(p, o, u, count, state, work, zero, dense, gradient)
        if phase == LOSSES:
            _save(own, (row.top, row.log_sum, row.inverse, scale, at_label))
            return
    elif dense is None or gradient is not None:
        first = own + -piece * size
        n = size_of(like)
        row = Finished(load(first, like), load(first + n, like), load(first + 2 * n, like))
        scale = load(first + 3 * n, like)
        at_label = load(first + 4 * n, like)
    if gradient is not None:
        if dense is None:
            indices = _labels_of(p, o, u, count, work)
        store(_number(work, _SCALE, zero), spread(scale, zero))
        value = spread(at_label, zero)
        for c in range(piece * p.piece, min(p.chunks, (piece + 1) * p.piece)):
            chunk = _chunk(p, c, count, zero, rows)
            _write_gradients(p, o, u, c, chunk, count, row, indices, value, work, zero, dense, rows)


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
) -> tuple[Finished, Any, Any]:
    """Write the losses of a unit.

    Returns what its gradients need: the row, their scale, and the gradient of the labels' classes.
    """
    row = finish(state)
    z = row.top
    if dense is not None:
        loss = dense_loss(state, row, p.keep_label, p.uniform)
        real = widen(lane_numbers(zero)) < np.float64(count)
        lost = (loss != loss) & (row.log_sum == row.log_sum) & real
        if any_lane(lost):
            loss = where(lost, _loss_class_by_class(p, o, u, count, row, work, zero), loss)
    else:
        z = _logits_at_labels(p, o, u, count, _labels_of(p, o, u, count, work), work, zero)
        loss = sparse_loss(z, row)
    weight = widen(zero)
    if gradient is not None or p.raw == 0:
        weight = _read_optional(p.weights, o, u, count, work, zero)
    if p.raw == 0:
        # Rounded first, so that it is the weight times what unweighted losses are.
        loss = widen(convert(loss, zero)) * weight
    _write_numbers(p.loss, o, u, count, loss, work, zero)
    if gradient is None:
        return row, weight, weight
    scale = _read_optional(p.upstream, o, u, count, work, zero) * weight * p.scale
    if dense is not None:
        return row, scale, scale
    return row, scale, sparse_label_gradient(probability(z, row), scale)


# ---- the backward pass ----------------------------------------------------------------------


@merged
def _write_gradients(
    p: Any,
    o: int,
    u: int,
    c: int,
    chunk: Chunk,
    count: int,
    row: Finished,
    indices: Any,
    at_label: Any,
    work: Workspace,
    zero: Any,
    dense: Any,
    rows: Any,
) -> None:
    """Write the gradients of one chunk of a unit."""
    factor = row.inverse * widen(constants(zero).scale_down)
    rescale = False
    if p.keep != 0 and p.chunks > 1:
        # Exponentials stand against a smaller maximum, perhaps. Far below the row's, the factor
        # between them would be subnormal: then a part of it goes to the exponentials first.
        stood = load(work.tops + c * lanes_of(zero) * size_of(_F64), row.top)
        factor = factor * exp(stood - row.top)
        down = widen(constants(zero).scale_down * constants(zero).scale_down)
        tiny = factor < down
        rescale = any_lane(tiny)
        store(_number(work, _OTHER, zero), spread(where(tiny, down, 1.0), zero))
        factor = where(tiny, factor / down, factor)
    store(_number(work, _FACTOR, zero), spread(factor, zero))
    to = _output(p.d_logits, p, o, u, chunk, count, work, zero, rows)
    for r in range(_passes(count, rows)):
        e = _kept(p, r, chunk, work, zero)
        scale = _of_example(rows, _number(work, _SCALE, zero), r, zero)
        if p.keep == 0 or p.d_labels.address != 0:
            _return_to_logits(p, o, u, r, chunk, row, e, scale, work, zero, rows)
        if rescale:
            other = _of_example(rows, _number(work, _OTHER, zero), r, zero)
            scale_chunk(e, chunk.tail, other, zero)
        if p.d_logits.address != 0:
            labels = None
            if dense is not None:
                buffer = work.labels + r * work.example
                if p.chunks > 1:
                    _fetch(p.labels, o, u, r, chunk, 0.0, buffer, zero, rows)
                labels = _operand(p, p.labels, o, u, r, chunk, buffer, zero, rows)
            place = to + r * p.d_logits.example
            lane = _lane(p.d_logits, rows)
            out = tile_of(p.d_logits, place, chunk, lane, 0, work.output, zero)
            own_factor = _of_example(rows, _number(work, _FACTOR, zero), r, zero)
            gradient_of_chunk(p, e, labels, out, chunk.tail, own_factor, scale, zero)
            if dense is None:
                slot = _number(work, _SLOT, zero)
                store(slot, at_label)
                _put_at_labels(r, count, chunk, indices, out, slot, zero, rows)
            put(p.d_logits, place, chunk, lane, work.output, zero)


@merged
def _return_to_logits(
    p: Any,
    o: int,
    u: int,
    r: int,
    chunk: Chunk,
    row: Finished,
    e: Tile,
    scale: Any,
    work: Workspace,
    zero: Any,
    rows: Any,
) -> None:
    """Do what needs the logits once more: exponentials not kept, and the gradient by the labels."""
    slot = _number(work, _SLOT, zero)
    buffer = work.logits + r * work.example
    if p.chunks > 1:
        _fetch(p.logits, o, u, r, chunk, 0.0, buffer, zero, rows)
    x = _operand(p, p.logits, o, u, r, chunk, buffer, zero, rows)
    store(slot, spread(row.top, zero))
    top = _of_example(rows, slot, r, zero)
    if p.keep == 0:
        exp_of_chunk(x, e, chunk.tail, top, zero)
    if p.d_labels.address != 0:
        store(slot, spread(row.log_sum, zero))
        log_sum = _of_example(rows, slot, r, zero)
        place = _place(p.d_labels, o, u, r, chunk)
        lane = _lane(p.d_labels, rows)
        out = tile_of(p.d_labels, place, chunk, lane, 0, work.output, zero)
        label_gradient_of_chunk(x, out, chunk.tail, top, log_sum, scale, zero)
        put(p.d_labels, place, chunk, lane, work.output, zero)


@inlined
def _output(
    t: Any, p: Any, o: int, u: int, chunk: Chunk, count: int, work: Workspace, zero: Any, rows: Any
) -> Any:
    """Where to write a chunk of the unit's outputs: to memory or on the stage."""
    place = _place(t, o, u, 0, chunk)
    if t.stream == 0:
        return place
    size = count * t.example
    if p.chunks > 1:
        size = chunk.full * t.vector + chunk.tail * t.classes
    return stage_for(work.stage, place, size)


@inlined
def _put_at_labels(
    r: int, count: int, chunk: Chunk, indices: Any, out: Tile, values: Any, zero: Any, rows: Any
) -> None:
    """Put the gradients of the labels' classes over what all classes got."""
    number = size_of(first_lane(zero))
    if rows is None:
        for i in range(count):
            v = load(indices + i * size_of(_I64), _I64) - chunk.first
            if 0 <= v < chunk.full:
                value = load(values + i * number, first_lane(zero))
                store(out.address + v * out.step + i * number, value)
    else:
        j = load(indices + r * size_of(_I64), _I64) - chunk.first * lanes_of(zero)
        whole = chunk.full * lanes_of(zero)
        if 0 <= j < whole:
            store(out.address + j * number, load(values + r * number, first_lane(zero)))
        elif whole <= j < whole + chunk.tail:
            store(out.tail + (j - whole) * number, load(values + r * number, first_lane(zero)))
