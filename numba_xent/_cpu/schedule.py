"""One unit of work, from logits to loss and gradient, in one pass over memory.

Rows and columns are the same schedule. A unit is a tile of registers: for rows the lanes are
classes of one example (and the lanes' states merge at the end), for columns they are neighbouring
examples (and each lane is finished on its own), so that loads stay contiguous whichever axis is
the contiguous one. The tile is cut into chunks that stay in L1 between the search for the maximum
and the sum of exponentials. The exponentials are kept until the row is finished, so that the
gradient needs neither the logits nor ``exp`` again; only units too long for the scratch memory
read their logits twice.

A unit reads all that it needs of the logits before it writes the same elements of the gradient:
the gradient may overwrite the logits.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba.extending import register_jitable

from .._math.constants import constants
from .._math.cross_entropy import (
    Finished,
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
    Chunk,
    Tile,
    exp_of_chunk,
    gradient_of_chunk,
    label_gradient_of_chunk,
    max_of_chunk,
    put,
    scale_chunk,
    source,
    sum_chunk,
    target,
)
from .intrinsics import (
    any_lane,
    convert,
    first_lane,
    lanes_of,
    load,
    pointer,
    size_of,
    spread,
    store,
)
from .lanes import each, share_top, to_state
from .memory import read_tile, write_tile

_F64, _I64 = np.float64(0), np.int64(0)


class Workspace(NamedTuple):
    """A task's scratch memory.

    Attributes
    ----------
    logits, labels, output
        A chunk of registers each, and one for the tail (sparse labels fit there too).
    exponentials
        Those of the whole unit, or of a chunk, and of the tail.
    examples
        Two registers for the numbers of single examples.
    tops
        The maximum of each chunk.
    size
        How many bytes there are.
    """

    logits: Any
    labels: Any
    output: Any
    exponentials: Any
    examples: Any
    tops: Any
    size: int


@register_jitable
def lay_out(p: Any, address: int, zero: Any, gradient: Any) -> Workspace:
    """Divide scratch memory, from its first aligned address on."""
    register = size_of(zero)
    chunk = (min(p.chunk, p.vectors) + 2) * register
    output = 0
    kept = 0
    if gradient is not None:
        output = chunk
        kept = (p.vectors + 1) * register if p.keep else chunk
    logits = pointer((address + register - 1) // register * register)
    labels = logits + chunk
    outputs = labels + chunk
    exponentials = outputs + output
    examples = exponentials + kept
    tops = examples + 2 * register
    size = 2 * chunk + output + kept + 2 * register + p.chunks * lanes_of(zero) * size_of(_F64)
    return Workspace(logits, labels, outputs, exponentials, examples, tops, size)


@register_jitable
def workspace_size(p: Any, zero: Any, gradient: Any) -> int:
    """Bytes of scratch memory that a task needs, wherever it begins."""
    return lay_out(p, 0, zero, gradient).size + size_of(zero)


@register_jitable
def read_examples(t: Any, o: int, u: int, count: int, work: Workspace, zero: Any) -> Any:
    """A number of each example of the unit, in the lanes of a register; 0 in the others."""
    read_tile(t, start_of(t, o, u), count, 1, 0.0, work.examples)
    return load(work.examples, zero)


@register_jitable
def _weight(
    p: Any,
    o: int,
    u: int,
    count: int,
    row: Finished,
    work: Workspace,
    zero: Any,
    gradient: Any,
    rows: Any,
) -> Any:
    """The weights of the unit's examples, or 1 where nothing is weighted yet."""
    if gradient is None and p.raw != 0:
        return where(row.top == row.top, 1.0, 1.0)
    return each(rows, widen(read_examples(p.weights, o, u, count, work, zero)))


@register_jitable
def _write_examples(
    t: Any, o: int, u: int, count: int, value: Any, work: Workspace, zero: Any
) -> None:
    """Write a number of each example of the unit."""
    store(work.examples, spread(value, zero))
    write_tile(t, start_of(t, o, u), count, 1, work.examples)


@register_jitable
def read_labels(p: Any, o: int, u: int, count: int, buffer: Any) -> None:
    """Read the sparse labels of the unit's examples into a buffer of int64."""
    read_tile(p.labels, start_of(p.labels, o, u), count, 1, np.nan, buffer)


@register_jitable
def _logits_at_labels(p: Any, o: int, u: int, count: int, work: Workspace, zero: Any) -> Any:
    """The logit of each example's label, as float64 in the lanes."""
    x = start_of(p.logits, o, u)
    number = size_of(first_lane(zero))
    slot = work.examples + size_of(zero)
    read_labels(p, o, u, count, work.labels)
    store(work.examples, zero)
    for i in range(count):
        label = load(work.labels + i * size_of(_I64), _I64)
        at_label = x + (label * p.logits.classes + i * p.logits.lane)
        read_tile(p.logits, at_label, 1, 1, np.nan, slot)
        store(work.examples + i * number, load(slot, first_lane(zero)))
    return widen(load(work.examples, zero))


@register_jitable
def _put_label_gradients(
    p: Any, o: int, u: int, count: int, gradient: Any, work: Workspace, zero: Any
) -> None:
    """Write the gradient of each example's label, over what all classes got."""
    t = p.d_logits
    out = start_of(t, o, u)
    number = size_of(first_lane(zero))
    slot = work.examples + size_of(zero)
    read_labels(p, o, u, count, work.labels)
    store(work.examples, spread(gradient, zero))
    for i in range(count):
        label = load(work.labels + i * size_of(_I64), _I64)
        store(slot, load(work.examples + i * number, first_lane(zero)))
        write_tile(t, out + (label * t.classes + i * t.lane), 1, 1, slot)


@register_jitable
def _loss_class_by_class(
    p: Any, o: int, u: int, count: int, row: Finished, rows: Any, work: Workspace, zero: Any
) -> Any:
    """The loss as a plain sum of its terms, for labels whose sum is not finite."""
    x = start_of(p.logits, o, u)
    y = start_of(p.labels, o, u)
    second = work.examples + size_of(zero)
    total = where(row.top == row.top, 0.0, 0.0)
    for j in range(p.classes):
        read_tile(p.logits, x + j * p.logits.classes, count, 1, np.nan, work.examples)
        read_tile(p.labels, y + j * p.labels.classes, count, 1, np.nan, second)
        z = each(rows, widen(load(work.examples, zero)))
        label = each(rows, widen(load(second, zero)))
        label = smooth(label, p.keep_label, p.uniform)
        total = total + class_loss(label, z, row)
    return total


# ---- one unit -------------------------------------------------------------------------------


@register_jitable
def _chunk(p: Any, c: int, lanes: int) -> Chunk:
    """The extent of a chunk of a unit."""
    first = c * p.chunk
    tail = p.tail if c == p.chunks - 1 else 0
    return Chunk(first, min(p.chunk, p.vectors - first), lanes, tail)


@register_jitable
def start_of(t: Any, o: int, u: int) -> Any:
    """Where a unit's elements of a tensor begin."""
    return pointer(t.address) + (o * t.outer + u * t.unit)


@register_jitable
def _registers(chunk: Chunk) -> int:
    """How many registers a chunk has, the tail's included."""
    return chunk.full + 1 if chunk.tail != 0 else chunk.full


@register_jitable
def solve(
    p: Any, o: int, u: int, work: Workspace, zero: Any, dense: Any, gradient: Any, rows: Any
) -> None:
    """Loss and gradient of one unit.

    Parameters
    ----------
    p
        The problem, a record as :mod:`.record` describes it.
    o, u
        Outer index and unit.
    work
        Scratch memory.
    zero
        A register of zeros of the compute dtype.
    dense, gradient
        None, or not None if there is one label per class, and if a gradient is wanted.
    rows
        Not None for rows, None for columns.
    """
    count = examples_in(p, u, zero, rows)
    lanes = lanes_of(zero) if rows is not None else count
    labels = None
    kept = None
    for c in range(p.chunks):
        chunk = _chunk(p, c, lanes)
        x = source(p.logits, start_of(p.logits, o, u), chunk, -np.inf, work.logits, zero)
        if dense is not None:
            labels = source(p.labels, start_of(p.labels, o, u), chunk, 0.0, work.labels, zero)
        if gradient is not None:
            kept = _kept(p, chunk, work, zero)
        top = share_top(rows, max_of_chunk(x, chunk.tail, zero))
        sums = sum_chunk(x, labels, kept, chunk.tail, top, zero, rows)
        part = to_state(rows, top, sums, _classes_in(chunk, zero, rows), dense)
        store(work.tops + c * size_of(part.top), part.top)
        # Most units have one chunk: nothing to merge.
        if c == 0:
            state = part
        else:
            state = merge(state, part)

    row = finish(state)
    if dense is not None:
        z = row.top
        loss = dense_loss(state, row, p.keep_label, p.uniform)
        if any_lane((loss != loss) & (state.count > 0.0)):
            loss = _loss_class_by_class(p, o, u, count, row, rows, work, zero)
    else:
        z = each(rows, _logits_at_labels(p, o, u, count, work, zero))
        loss = sparse_loss(z, row)
    weight = _weight(p, o, u, count, row, work, zero, gradient, rows)
    if p.raw == 0:
        # Rounded first, so that it is the weight times what unweighted losses are.
        loss = widen(convert(loss, first_lane(zero))) * weight
    _write_examples(p.loss, o, u, count, loss, work, zero)

    if gradient is not None:
        upstream = each(rows, widen(read_examples(p.upstream, o, u, count, work, zero)))
        scale = upstream * weight * p.scale
        for c in range(p.chunks):
            top = load(work.tops + c * size_of(row.top), row.top)
            _write_gradients(p, o, u, _chunk(p, c, lanes), top, row, scale, work, zero, dense)
        if dense is None:
            at_label = sparse_label_gradient(probability(z, row), scale)
            _put_label_gradients(p, o, u, count, at_label, work, zero)


@register_jitable
def _classes_in(chunk: Chunk, zero: Any, rows: Any) -> int:
    """How many classes of an example a chunk holds."""
    if rows is None:
        return chunk.full
    return chunk.full * lanes_of(zero) + chunk.tail


@register_jitable
def examples_in(p: Any, u: int, zero: Any, rows: Any) -> int:
    """How many examples a unit has."""
    if rows is None:
        return min(lanes_of(zero), p.inner - u * lanes_of(zero))
    return 1


@register_jitable
def _kept(p: Any, chunk: Chunk, work: Workspace, zero: Any) -> Tile:
    """Where the exponentials of a chunk are kept."""
    register = size_of(zero)
    start = work.exponentials + (chunk.first * register if p.keep != 0 else 0)
    return Tile(start, register, chunk.full, start + chunk.full * register)


@register_jitable
def _write_gradients(
    p: Any,
    o: int,
    u: int,
    chunk: Chunk,
    chunk_top: Any,
    row: Finished,
    scale: Any,
    work: Workspace,
    zero: Any,
    dense: Any,
) -> None:
    """Write the gradients of one chunk of a unit."""
    n = _registers(chunk)
    e = _kept(p, chunk, work, zero)
    scales = spread(scale, zero)
    top = spread(row.top, zero)
    factor = row.inverse * widen(constants(zero).scale_down)
    if p.keep == 0 or p.d_labels.address != 0:
        x = source(p.logits, start_of(p.logits, o, u), chunk, 0.0, work.logits, zero)
        if p.keep == 0:
            exp_of_chunk(x, e, n, top, zero)
        if p.d_labels.address != 0:
            start = start_of(p.d_labels, o, u)
            out = target(p.d_labels, start, chunk, work.output, zero)
            label_gradient_of_chunk(x, out, n, top, spread(row.log_sum, zero), scales, zero)
            put(p.d_labels, start, chunk, work.output, zero)
    if p.keep != 0 and p.chunks > 1:
        # Exponentials stand against their chunk's maximum. Far below the row's, the factor between
        # them would be subnormal: then a part of it goes to the exponentials first.
        factor = factor * exp(chunk_top - row.top)
        down = widen(constants(zero).scale_down * constants(zero).scale_down)
        tiny = factor < widen(constants(zero).scale_down * constants(zero).scale_down)
        if any_lane(tiny):
            scale_chunk(e, n, spread(where(tiny, down, 1.0), zero), zero)
            factor = where(tiny, factor / down, factor)
    labels = None
    if p.d_logits.address != 0:
        start = start_of(p.d_logits, o, u)
        out = target(p.d_logits, start, chunk, work.output, zero)
        if dense is not None:
            labels = source(p.labels, start_of(p.labels, o, u), chunk, 0.0, work.labels, zero)
        gradient_of_chunk(p, e, labels, out, n, spread(factor, zero), scales, zero)
        put(p.d_logits, start, chunk, work.output, zero)
