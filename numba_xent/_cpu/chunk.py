"""Chunks of a unit as tiles of registers, and the passes over one chunk.

A chunk stays in L1 cache between the search for its maximum and the sum of its exponentials.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from numba.extending import register_jitable

from .._math.compensated import accumulate
from .._math.constants import constants
from .._math.cross_entropy import (
    add_drop,
    add_exp,
    add_label,
    dense_gradient,
    exp_of_class,
    label_gradient,
    smooth,
    sparse_gradient,
)
from .._math.primitives import maximum
from .intrinsics import lane_numbers, lanes_of, load, size_of, store
from .lanes import Sums
from .memory import read_tile, write_tile

BLOCK = 8
"""Registers of a row that are summed plainly before their sum is added to a compensated pair. The
rounding errors of 16 lanes average out; in columns a lane is an example, and each term is added to
the pair."""


class Chunk(NamedTuple):
    """A part of a unit.

    It has `full` registers from number `first` on, with `lanes` lanes in use, and one more with
    the `tail` classes that do not fill a register.
    """

    first: int
    full: int
    lanes: int
    tail: int


class Tile(NamedTuple):
    """Registers to load or store: `full` of them at regular steps, and perhaps one for the tail.

    Register ``v`` lies at ``address + v * step`` if ``v < full``, else at `tail`.
    """

    address: Any
    step: int
    full: int
    tail: Any


@register_jitable
def _at(tile: Tile, v: int) -> int:
    """The address of a register of a tile."""
    return tile.address + v * tile.step if v < tile.full else tile.tail


@register_jitable
def _is_direct(t: Any, chunk: Chunk, zero: Any) -> bool:
    """Whether registers of a tensor can be loaded or stored where they lie."""
    return t.direct != 0 and chunk.lanes == lanes_of(zero)


@register_jitable
def source(t: Any, start: Any, chunk: Chunk, padding: Any, buffer: Any, zero: Any) -> Tile:
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
def target(t: Any, start: Any, chunk: Chunk, buffer: Any, zero: Any) -> Tile:
    """Where a chunk of an output is to be stored: in place, or in the buffer for `put`."""
    tail = buffer + chunk.full * size_of(zero)
    if _is_direct(t, chunk, zero):
        return Tile(start + chunk.first * t.vector, t.vector, chunk.full, tail)
    return Tile(buffer, size_of(zero), chunk.full, tail)


@register_jitable
def put(t: Any, start: Any, chunk: Chunk, buffer: Any, zero: Any) -> None:
    """Write to memory what `target` left in the buffer."""
    address = start + chunk.first * t.vector
    if not _is_direct(t, chunk, zero):
        write_tile(t, address, chunk.lanes, chunk.full, buffer)
    if chunk.tail != 0:
        rest = buffer + chunk.full * size_of(zero)
        write_tile(t, address + chunk.full * t.vector, chunk.tail, 1, rest)


@register_jitable
def max_of_chunk(x: Tile, tail: int, zero: Any) -> Any:
    """The maximum in each lane."""
    lowest = zero + constants(zero).lowest
    a = load(x.tail, zero) if tail != 0 else lowest
    a = maximum(a, lowest)
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
    for v in range(whole, x.full):
        a = maximum(a, load(x.address + v * x.step, zero))
    return maximum(maximum(a, b), maximum(c, d))


@register_jitable
def _from(tile: Any, v: int) -> Any:
    """What is left of a tile from a full register on, or None."""
    if tile is None:
        return None
    return Tile(tile.address + v * tile.step, tile.step, tile.full - v, tile.tail)


@register_jitable
def _tail(tile: Any) -> Any:
    """The register of the tail as a tile, or None."""
    if tile is None:
        return None
    return Tile(tile.tail, 0, 1, tile.tail)


@register_jitable
def _sum_block(
    x: Tile, labels: Any, e: Any, n: int, used: Any, top: Any, zero: Any, sums: Sums
) -> Sums:
    """Add the first `n` full registers of a chunk to the sums; `used` lanes hold classes."""
    count = sums.count
    rest = zero
    dot = zero
    mass = zero
    drop = zero
    for v in range(n):
        d, exponential = exp_of_class(load(x.address + v * x.step, zero), top)
        count, rest = add_exp(d, exponential, count, rest)
        if e is not None:
            store(e.address + v * e.step, exponential)
        if labels is not None:
            label = load(labels.address + v * labels.step, zero)
            dot, mass = add_label(d, label, dot, mass)
            drop = add_drop(d, used, drop)
    rest, rest_low = accumulate(sums.rest, sums.rest_low, rest)
    if labels is None:
        return Sums(count, rest, rest_low, zero, zero, zero, zero, zero, zero)
    dot, dot_low = accumulate(sums.dot, sums.dot_low, dot)
    mass, mass_low = accumulate(sums.mass, sums.mass_low, mass)
    drop, drop_low = accumulate(sums.drop, sums.drop_low, drop)
    return Sums(count, rest, rest_low, dot, dot_low, mass, mass_low, drop, drop_low)


@register_jitable
def sum_chunk(x: Tile, labels: Any, e: Any, tail: int, top: Any, zero: Any, rows: Any) -> Sums:
    """The sums of a chunk; without `labels` nothing about them, without `e` nothing is kept."""
    sums = Sums(zero, zero, zero, zero, zero, zero, zero, zero, zero)
    used = zero == zero
    if rows is None:
        for v in range(x.full):
            sums = _sum_block(_from(x, v), _from(labels, v), _from(e, v), 1, used, top, zero, sums)
        return sums
    whole = x.full // BLOCK * BLOCK
    for v in range(0, whole, BLOCK):
        sums = _sum_block(_from(x, v), _from(labels, v), _from(e, v), BLOCK, used, top, zero, sums)
    if whole < x.full:
        n = x.full - whole
        x_rest = _from(x, whole)
        sums = _sum_block(x_rest, _from(labels, whole), _from(e, whole), n, used, top, zero, sums)
    if tail != 0:
        # The other lanes are padded with -inf, which adds nothing to any sum but this one.
        used = lane_numbers(zero) < tail
        sums = _sum_block(_tail(x), _tail(labels), _tail(e), 1, used, top, zero, sums)
    return sums


@register_jitable
def exp_of_chunk(x: Tile, e: Tile, n: int, top: Any, zero: Any) -> None:
    """The exponentials of a chunk against a maximum that is known."""
    for v in range(n):
        store(_at(e, v), exp_of_class(load(_at(x, v), zero), top)[1])


@register_jitable
def scale_chunk(e: Tile, n: int, factor: Any, zero: Any) -> None:
    """Multiply exponentials by a factor."""
    for v in range(n):
        store(_at(e, v), load(_at(e, v), zero) * factor)


@register_jitable
def gradient_of_chunk(
    p: Any, e: Tile, labels: Any, out: Tile, n: int, to_probability: Any, scale: Any, zero: Any
) -> None:
    """The gradient by the logits of a chunk, from its exponentials."""
    for v in range(n):
        exponential = load(_at(e, v), zero)
        if labels is None:
            gradient = sparse_gradient(exponential, to_probability, scale)
        else:
            label = smooth(load(_at(labels, v), zero), p.keep_label, p.uniform)
            gradient = dense_gradient(exponential, to_probability, label, scale)
        store(_at(out, v), gradient)


@register_jitable
def label_gradient_of_chunk(
    x: Tile, out: Tile, n: int, top: Any, log_sum: Any, scale: Any, zero: Any
) -> None:
    """The gradient by the labels of a chunk, from its logits."""
    for v in range(n):
        store(_at(out, v), label_gradient(load(_at(x, v), zero), top, log_sum, scale))
