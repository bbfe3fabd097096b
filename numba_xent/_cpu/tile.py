"""Chunks of a unit as tiles of registers: where they lie, and how registers are loaded and stored.

A tile lies where the tensor does, or in a buffer to which it is copied.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from .._math.primitives import where
from .compile import inlined
from .halves import is_half, narrowed, widened
from .intrinsics import (
    first_lane,
    join,
    lane_numbers,
    lanes_of,
    load,
    load_part,
    prefetch,
    size_of,
    store,
    store_part,
    store_streaming,
    zeros,
)
from .memory import AHEAD, LINE, read_tile, write_tile

WIDE = 2
"""Registers of a row that are worked on side by side, as one: the formula is one long chain of
operations that wait for each other, and the processor does not look far enough ahead to fill the
gaps from the next register alone (8 % slower so). Four at a time would not fit its registers."""


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

    Attributes
    ----------
    address, step, full
        Register ``v`` lies at ``address + v * step``.
    tail, part
        The register of the tail; it is a whole one if `part` is 0, else only so many lanes.
    ahead
        What will be needed next lies so many bytes further (0: that is not known).
    stored
        A register of zeros as the registers are stored.
    """

    address: Any
    step: int
    full: int
    tail: Any
    part: int
    ahead: int
    stored: Any


@inlined
def is_direct(t: Any, chunk: Chunk, lane: int, stored: Any) -> bool:
    """Whether registers like `stored` can be loaded or stored where they lie in a tensor."""
    # There are no buffers of halves: kernels of halves are for what lies well.
    in_order = lane == size_of(first_lane(stored)) and chunk.lanes == lanes_of(stored)
    return is_half(stored) or (t.plain != 0 and in_order)


@inlined
def tile_of(
    t: Any, place: Any, chunk: Chunk, lane: int, ahead: int, buffer: Any, stored: Any
) -> Tile:
    """A chunk of a tensor: where it lies, or in a buffer (see `fetch` and `put`)."""
    if is_direct(t, chunk, lane, stored):
        end = place + chunk.full * t.vector
        return Tile(place, t.vector, chunk.full, end, chunk.tail, ahead, stored)
    return buffer_tile(chunk, buffer, stored)


@inlined
def buffer_tile(chunk: Chunk, buffer: Any, stored: Any) -> Tile:
    """A chunk in a buffer."""
    end = buffer + chunk.full * size_of(stored)
    return Tile(buffer, size_of(stored), chunk.full, end, 0, 0, stored)


@inlined
def row_tile(place: Any, full: int, tail: int, stored: Any) -> Tile:
    """A chunk of a row that lies in memory as it is loaded."""
    register = size_of(stored)
    return Tile(place, register, full, place + full * register, tail, AHEAD, stored)


@inlined
def fetch(
    t: Any, place: Any, chunk: Chunk, lane: int, padding: float, buffer: Any, stored: Any
) -> None:
    """Copy a chunk of an operand to its buffer, if it cannot be loaded where it lies."""
    if not is_direct(t, chunk, lane, stored):
        read_tile(t, place, lane, chunk.lanes, chunk.full, padding, buffer, stored)
        if chunk.tail != 0:
            tail = buffer + chunk.full * size_of(stored)
            read_tile(t, place + chunk.full * t.vector, lane, chunk.tail, 1, padding, tail, stored)


@inlined
def put(t: Any, place: Any, chunk: Chunk, lane: int, buffer: Any, stored: Any) -> None:
    """Copy a chunk of an output from its buffer, if it was not stored where it lies."""
    if not is_direct(t, chunk, lane, stored):
        write_tile(t, place, lane, chunk.lanes, chunk.full, buffer, stored)
        if chunk.tail != 0:
            tail = buffer + chunk.full * size_of(stored)
            write_tile(t, place + chunk.full * t.vector, lane, chunk.tail, 1, tail, stored)


@inlined
def get_register(tile: Tile, v: int) -> Any:
    """Register number `v` of a tile."""
    return widened(load(tile.address + v * tile.step, tile.stored))


@inlined
def set_register(tile: Tile, v: int, value: Any) -> None:
    """Store register number `v` of a tile."""
    store(tile.address + v * tile.step, narrowed(value, tile.stored))


@inlined
def register_at(tile: Tile, v: int) -> Any:
    """Where register number `v` of a tile lies whose registers follow each other."""
    return tile.address + v * size_of(tile.stored)


@inlined
def get_wide(tile: Tile, v: int) -> Any:
    """Two registers that follow each other as one, from number `v` on."""
    return widened(load(register_at(tile, v), join(tile.stored, tile.stored)))


@inlined
def ask(tile: Tile, v: int) -> None:
    """Ask for what will be needed after two registers, from number `v` on."""
    for i in range(0, WIDE * size_of(tile.stored), LINE):
        prefetch(register_at(tile, v) + (tile.ahead + i))


@inlined
def put_lines(t: Any, place: Any, chunk: Chunk, buffer: Any, zero: Any) -> None:
    """Copy whole cache lines of an output from its buffer, past the caches."""
    line = zeros("float32", 1)
    for v in range(chunk.full):
        for i in range(0, size_of(zero), size_of(line)):
            value = load(buffer + (v * size_of(zero) + i), line)
            store_streaming(place + (v * t.vector + i), value)


@inlined
def load_tail(tile: Tile, padding: float, zero: Any) -> Any:
    """The register of the tail, its unused lanes filled."""
    if tile.part == 0:
        return widened(load(tile.tail, tile.stored))
    loaded = widened(load_part(tile.tail, tile.part, tile.stored))
    return where(lane_numbers(zero) < tile.part, loaded, padding)


@inlined
def store_tail(tile: Tile, value: Any) -> None:
    """Store the register of the tail."""
    if tile.part == 0:
        store(tile.tail, narrowed(value, tile.stored))
    else:
        store_part(tile.tail, narrowed(value, tile.stored), tile.part)


@inlined
def section(tile: Tile, first: int, count: int) -> Tile:
    """So many registers of a tile from number `first` on, and its tail."""
    address = tile.address + first * tile.step
    return Tile(address, tile.step, count, tile.tail, tile.part, tile.ahead, tile.stored)


@inlined
def put_class(tile: Tile, tail: int, j: int, value: Any) -> None:
    """Put the number at a place over class `j` of a row, if that is in the tile or its tail."""
    kind = first_lane(tile.stored)
    if 0 <= j < tile.full * lanes_of(tile.stored) + tail:
        store(tile.address + j * size_of(kind), load(value, kind))
