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
from numba.extending import overload, register_jitable

from .._math.compensated import accumulate, add_pairs, total_of
from .._math.constants import constants
from .._math.cross_entropy import (
    Finished,
    State,
    add_exp,
    add_label,
    class_loss,
    dense_gradient,
    dense_loss,
    exp_of_class,
    finish,
    label_gradient,
    merge,
    probability,
    smooth,
    sparse_gradient,
    sparse_label_gradient,
    sparse_loss,
)
from .._math.exponential import exp
from .._math.primitives import maximum, where, widen
from .memory import read_index, read_tile, write_tile
from .vector import (
    Vector,
    any_lane,
    first_lane,
    high_half,
    lanes_of,
    load,
    low_half,
    size_of,
    spread,
    store,
    types,
)

BLOCK = 8
"""Registers that are summed plainly before the sum is added to a compensated pair."""

_F64 = np.float64(0)


class Workspace(NamedTuple):
    """Addresses of a task's scratch memory.

    Attributes
    ----------
    logits, labels, output
        A chunk of registers each, and one for the tail.
    exponentials
        Those of the whole unit, or of a chunk, and of the tail.
    tops
        The maximum of each chunk.
    examples
        A few registers for the numbers of single examples.
    """

    logits: int
    labels: int
    output: int
    exponentials: int
    tops: int
    examples: int


@register_jitable
def workspace_size(p: Any, like: Any) -> int:
    """Bytes of scratch memory that a task needs."""
    chunk = min(p.chunk, p.vectors) + 1
    kept = p.vectors + 1 if p.keep else chunk
    return (3 * chunk + kept + 8) * size_of(like) + (p.chunks * lanes_of(like) + 16) * size_of(_F64)


@register_jitable
def lay_out(p: Any, address: int, like: Any) -> Workspace:
    """Divide scratch memory, from its first aligned address on."""
    register = size_of(like)
    chunk = (min(p.chunk, p.vectors) + 1) * register
    kept = (p.vectors + 1) * register if p.keep else chunk
    logits = (address + register - 1) // register * register
    exponentials = logits + 3 * chunk
    examples = exponentials + kept
    return Workspace(
        logits, logits + chunk, logits + 2 * chunk, exponentials, examples + 6 * register, examples
    )


# ---- lanes to states ------------------------------------------------------------------------


def _sum_lanes(high: Any, low: Any) -> Any:
    """The float64 pair that the lanes of a pair of registers add up to, as a fixed tree."""
    raise NotImplementedError


def _tree(high: Any, low: Any) -> Any:
    """Like `_sum_lanes`, for float64 registers."""
    raise NotImplementedError


@overload(_tree, strict=False)
def _tree_overload(high: Any, low: Any) -> Any:
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
    if not isinstance(x, Vector):
        return lambda x: x
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
def total_of_lanes(x: Any) -> float:
    """The sum of float64 numbers: the lanes of a register, or just one."""
    return _add_up(x)


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


class Chunk(NamedTuple):
    """A part of a unit: `full` registers from number `first` on, with `lanes` lanes in use, and
    one more with the `tail` classes that do not fill a register."""

    first: int
    full: int
    lanes: int
    tail: int


class Sums(NamedTuple):
    """The sums of a chunk in the lanes of registers; ``rest`` is scaled as exponentials are."""

    count: Any
    rest: Any
    rest_low: Any
    dot: Any
    dot_low: Any
    mass: Any
    mass_low: Any


@register_jitable
def each(rows: Any, x: Any) -> Any:
    """The numbers of the unit's examples, from a register that holds one in each lane."""
    if rows is None:
        return x
    return first_lane(x)


@register_jitable
def _share_top(rows: Any, top: Any) -> Any:
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
def _to_state(rows: Any, top: Any, sums: Sums) -> State:
    """The state (or states) that the lanes stand for."""
    scale = widen(constants(top).scale_down)
    count, _ = _add_lanes(rows, sums.count, top - top)
    rest, rest_low = _add_lanes(rows, sums.rest, sums.rest_low)
    dot, dot_low = _add_lanes(rows, sums.dot, sums.dot_low)
    mass, mass_low = _add_lanes(rows, sums.mass, sums.mass_low)
    return State(
        each(rows, widen(top)),
        count,
        rest * scale,
        rest_low * scale,
        dot,
        dot_low,
        mass,
        mass_low,
    )


# ---- tiles ----------------------------------------------------------------------------------


class Tile(NamedTuple):
    """Registers to load or store: `full` of them at regular steps, and perhaps one for the tail.

    Register ``v`` lies at ``address + v * step`` if ``v < full``, else at `tail`.
    """

    address: int
    step: int
    full: int
    tail: int


@register_jitable
def _at(tile: Tile, v: int) -> int:
    """The address of a register of a tile."""
    return tile.address + v * tile.step if v < tile.full else tile.tail


@register_jitable
def _is_direct(t: Any, chunk: Chunk, zero: Any) -> bool:
    """Whether registers of a tensor can be loaded or stored where they lie."""
    return t.direct != 0 and chunk.lanes == lanes_of(zero)


@register_jitable
def _source(t: Any, start: int, chunk: Chunk, padding: Any, buffer: int, zero: Any) -> Tile:
    """A chunk of an operand: where it lies, or copied to the buffer."""
    address = start + chunk.first * t.vector
    tail = buffer + chunk.full * size_of(zero)
    if chunk.tail != 0:
        read_tile(t, address + chunk.full * t.vector, chunk.tail, 1, padding, tail)
    if _is_direct(t, chunk, zero):
        return Tile(address, t.vector, chunk.full, tail)
    read_tile(t, address, chunk.lanes, chunk.full, padding, buffer)
    return Tile(buffer, size_of(zero), chunk.full, tail)


@register_jitable
def _target(t: Any, start: int, chunk: Chunk, buffer: int, zero: Any) -> Tile:
    """Where a chunk of an output is to be stored: in place, or in the buffer for `_put`."""
    tail = buffer + chunk.full * size_of(zero)
    if _is_direct(t, chunk, zero):
        return Tile(start + chunk.first * t.vector, t.vector, chunk.full, tail)
    return Tile(buffer, size_of(zero), chunk.full, tail)


@register_jitable
def _put(t: Any, start: int, chunk: Chunk, buffer: int, zero: Any) -> None:
    """Write to memory what `_target` left in the buffer."""
    address = start + chunk.first * t.vector
    if not _is_direct(t, chunk, zero):
        write_tile(t, address, chunk.lanes, chunk.full, buffer)
    if chunk.tail != 0:
        rest = buffer + chunk.full * size_of(zero)
        write_tile(t, address + chunk.full * t.vector, chunk.tail, 1, rest)


# ---- the passes over one chunk --------------------------------------------------------------


@register_jitable
def _max_of_chunk(x: Tile, n: int, zero: Any) -> Any:
    """The maximum in each lane."""
    lowest = zero + constants(zero).lowest
    a = lowest
    b = lowest
    c = lowest
    d = lowest
    whole = x.full // 4 * 4
    # Four chains, because one would wait for its own latency.
    for v in range(0, whole, 4):
        a = maximum(a, load(x.address + v * x.step, zero))
        b = maximum(b, load(x.address + (v + 1) * x.step, zero))
        c = maximum(c, load(x.address + (v + 2) * x.step, zero))
        d = maximum(d, load(x.address + (v + 3) * x.step, zero))
    for v in range(whole, n):
        a = maximum(a, load(_at(x, v), zero))
    return maximum(maximum(a, b), maximum(c, d))


@register_jitable
def _sum_block(
    p: Any, x: Tile, labels: Any, e: Any, start: int, n: int, top: Any, zero: Any, sums: Sums
) -> Sums:
    """Add registers ``start`` to ``start + n`` to the sums."""
    count = sums.count
    rest = zero
    dot = zero
    mass = zero
    for i in range(n):
        v = start + i
        d, exponential = exp_of_class(load(_at(x, v), zero), top)
        count, rest = add_exp(d, exponential, count, rest)
        if e is not None:
            store(e + v * size_of(zero), exponential)
        if labels is not None:
            label = smooth(load(_at(labels, v), zero), p.keep_label, p.uniform)
            dot, mass = add_label(d, label, dot, mass)
    rest, rest_low = accumulate(sums.rest, sums.rest_low, rest)
    if labels is None:
        return Sums(count, rest, rest_low, zero, zero, zero, zero)
    dot, dot_low = accumulate(sums.dot, sums.dot_low, dot)
    mass, mass_low = accumulate(sums.mass, sums.mass_low, mass)
    return Sums(count, rest, rest_low, dot, dot_low, mass, mass_low)


@register_jitable
def _sum_chunk(p: Any, x: Tile, labels: Any, e: Any, n: int, top: Any, zero: Any) -> Sums:
    """The sums of a chunk; without `labels` nothing about them, without `e` nothing is kept."""
    sums = Sums(zero, zero, zero, zero, zero, zero, zero)
    whole = n // BLOCK * BLOCK
    for v in range(0, whole, BLOCK):
        sums = _sum_block(p, x, labels, e, v, BLOCK, top, zero, sums)
    if whole < n:
        sums = _sum_block(p, x, labels, e, whole, n - whole, top, zero, sums)
    return sums


@register_jitable
def _exp_of_chunk(x: Tile, e: int, n: int, top: Any, zero: Any) -> None:
    """The exponentials of a chunk against a maximum that is known."""
    for v in range(n):
        store(e + v * size_of(zero), exp_of_class(load(_at(x, v), zero), top)[1])


@register_jitable
def _scale_chunk(e: int, n: int, factor: Any, zero: Any) -> None:
    """Multiply exponentials by a factor."""
    for v in range(n):
        address = e + v * size_of(zero)
        store(address, load(address, zero) * factor)


@register_jitable
def _gradient_of_chunk(
    p: Any, e: int, labels: Any, out: Tile, n: int, to_probability: Any, scale: Any, zero: Any
) -> None:
    """The gradient by the logits of a chunk, from its exponentials."""
    for v in range(n):
        exponential = load(e + v * size_of(zero), zero)
        if labels is None:
            gradient = sparse_gradient(exponential, to_probability, scale)
        else:
            label = smooth(load(_at(labels, v), zero), p.keep_label, p.uniform)
            gradient = dense_gradient(exponential, to_probability, label, scale)
        store(_at(out, v), gradient)


@register_jitable
def _label_gradient_of_chunk(
    x: Tile, out: Tile, n: int, top: Any, log_sum: Any, scale: Any, zero: Any
) -> None:
    """The gradient by the labels of a chunk, from its logits."""
    for v in range(n):
        store(_at(out, v), label_gradient(load(_at(x, v), zero), top, log_sum, scale))


# ---- what belongs to single examples --------------------------------------------------------


@register_jitable
def read_examples(t: Any, o: int, u: int, count: int, work: Workspace, zero: Any) -> Any:
    """A number of each example of the unit, in the lanes of a register."""
    address = t.address + o * t.outer + u * t.unit
    read_tile(t, address, count, 1, 0.0, work.examples)
    return load(work.examples, zero)


@register_jitable
def _write_examples(
    t: Any, o: int, u: int, count: int, value: Any, work: Workspace, zero: Any
) -> None:
    """Write a number of each example of the unit."""
    store(work.examples, spread(value, zero))
    address = t.address + o * t.outer + u * t.unit
    write_tile(t, address, count, 1, work.examples)


@register_jitable
def _logits_at_labels(p: Any, o: int, u: int, count: int, work: Workspace, zero: Any) -> Any:
    """The logit of each example's label, as float64 in the lanes."""
    x = p.logits.address + o * p.logits.outer + u * p.logits.unit
    y = p.labels.address + o * p.labels.outer + u * p.labels.unit
    number = size_of(first_lane(zero))
    store(work.examples, zero)
    for i in range(count):
        label = read_index(p.labels, y + i * p.labels.lane)
        address = x + label * p.logits.classes + i * p.logits.lane
        slot = work.examples + size_of(zero)
        read_tile(p.logits, address, 1, 1, 0.0, slot)
        store(work.examples + i * number, load(slot, first_lane(zero)))
    return widen(load(work.examples, zero))


@register_jitable
def _put_label_gradients(
    p: Any, o: int, u: int, count: int, gradient: Any, work: Workspace, zero: Any
) -> None:
    """Write the gradient of each example's label, over what all classes got."""
    t = p.d_logits
    out = t.address + o * t.outer + u * t.unit
    y = p.labels.address + o * p.labels.outer + u * p.labels.unit
    number = size_of(first_lane(zero))
    store(work.examples, spread(gradient, zero))
    slot = work.examples + size_of(zero)
    for i in range(count):
        label = read_index(p.labels, y + i * p.labels.lane)
        address = out + label * t.classes + i * t.lane
        store(slot, load(work.examples + i * number, first_lane(zero)))
        write_tile(t, address, 1, 1, slot)


@register_jitable
def _loss_class_by_class(
    p: Any, o: int, u: int, count: int, row: Finished, rows: Any, work: Workspace, zero: Any
) -> Any:
    """The loss as a plain sum of its terms, for labels whose sum is not finite."""
    x = p.logits.address + o * p.logits.outer + u * p.logits.unit
    y = p.labels.address + o * p.labels.outer + u * p.labels.unit
    total = where(row.top == row.top, 0.0, 0.0)
    for j in range(p.classes):
        for operand in range(2):
            t = p.logits if operand == 0 else p.labels
            address = (x if operand == 0 else y) + j * t.classes
            slot = work.examples + operand * size_of(zero)
            read_tile(t, address, count, 1, 0.0, slot)
        z = each(rows, widen(load(work.examples, zero)))
        label = smooth(load(work.examples + size_of(zero), zero), p.keep_label, p.uniform)
        label = each(rows, widen(label))
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
def start_of(t: Any, o: int, u: int) -> int:
    """Where a unit's elements of a tensor begin."""
    return t.address + o * t.outer + u * t.unit


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
    minus_inf = -np.inf
    labels = None
    kept = None
    for c in range(p.chunks):
        chunk = _chunk(p, c, lanes)
        n = _registers(chunk)
        x = _source(p.logits, start_of(p.logits, o, u), chunk, minus_inf, work.logits, zero)
        if dense is not None:
            labels = _source(
                p.labels, start_of(p.labels, o, u), chunk, 0.0, work.labels, zero
            )
        if gradient is not None:
            kept = _kept(p, chunk, work, zero)
        top = _share_top(rows, _max_of_chunk(x, n, zero))
        part = _to_state(rows, top, _sum_chunk(p, x, labels, kept, n, top, zero))
        store(work.tops + c * size_of(part.top), part.top)
        # Most units have one chunk: nothing to merge.
        if c == 0:
            state = part
        else:
            state = merge(state, part)

    row = finish(state)
    if dense is not None:
        z = row.top
        loss = dense_loss(state, row)
        if any_lane((loss != loss) & (state.count > 0.0)):
            loss = _loss_class_by_class(p, o, u, count, row, rows, work, zero)
    else:
        z = each(rows, _logits_at_labels(p, o, u, count, work, zero))
        loss = sparse_loss(z, row)
    weight = each(rows, widen(read_examples(p.weights, o, u, count, work, zero)))
    if p.raw == 0:
        loss = loss * weight
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
def examples_in(p: Any, u: int, zero: Any, rows: Any) -> int:
    """How many examples a unit has."""
    if rows is None:
        return min(lanes_of(zero), p.inner - u * lanes_of(zero))
    return 1


@register_jitable
def _kept(p: Any, chunk: Chunk, work: Workspace, zero: Any) -> int:
    """Where the exponentials of a chunk are kept."""
    return work.exponentials + (chunk.first * size_of(zero) if p.keep != 0 else 0)


@register_jitable
def _write_gradients(
    p: Any, o: int, u: int, chunk: Chunk, chunk_top: Any, row: Finished, scale: Any,
    work: Workspace, zero: Any, dense: Any,
) -> None:
    """Write the gradients of one chunk of a unit."""
    n = _registers(chunk)
    e = _kept(p, chunk, work, zero)
    scales = spread(scale, zero)
    top = spread(row.top, zero)
    factor = row.inverse * widen(constants(zero).scale_down)
    if p.keep == 0 or p.d_labels.address != 0:
        x = _source(
            p.logits, start_of(p.logits, o, u), chunk, 0.0, work.logits, zero
        )
        if p.keep == 0:
            _exp_of_chunk(x, e, n, top, zero)
        if p.d_labels.address != 0:
            start = start_of(p.d_labels, o, u)
            out = _target(p.d_labels, start, chunk, work.output, zero)
            _label_gradient_of_chunk(x, out, n, top, spread(row.log_sum, zero), scales, zero)
            _put(p.d_labels, start, chunk, work.output, zero)
    if p.keep != 0 and p.chunks > 1:
        # Exponentials stand against their chunk's maximum. Far below the row's, the factor between
        # them would be subnormal: then a part of it goes to the exponentials first.
        factor = factor * exp(chunk_top - row.top)
        down = widen(constants(zero).scale_down * constants(zero).scale_down)
        tiny = factor < widen(constants(zero).scale_down * constants(zero).scale_down)
        if any_lane(tiny):
            _scale_chunk(e, n, spread(where(tiny, down, 1.0), zero), zero)
            factor = where(tiny, factor / down, factor)
    labels = None
    if p.d_logits.address != 0:
        start = start_of(p.d_logits, o, u)
        out = _target(p.d_logits, start, chunk, work.output, zero)
        if dense is not None:
            labels = _source(
                p.labels, start_of(p.labels, o, u), chunk, 0.0, work.labels, zero
            )
        _gradient_of_chunk(p, e, labels, out, n, spread(factor, zero), scales, zero)
        _put(p.d_logits, start, chunk, work.output, zero)

