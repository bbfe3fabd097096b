"""The chunks of a unit: their extents, and where they lie in memory and in buffers."""

from __future__ import annotations

from typing import Any

from .compile import inlined
from .extent import start_of
from .intrinsics import lanes_of, pointer, size_of
from .memory import AHEAD
from .panel import get_numbers
from .tile import Chunk, Tile, fetch, tile_of
from .workspace import Workspace


@inlined
def chunk_of(p: Any, c: int, count: int, zero: Any, rows: Any) -> Chunk:
    """The extent of a chunk of a unit."""
    first = c * p.chunk
    tail = p.tail if c == p.chunks - 1 else 0
    lanes = lanes_of(zero) if rows is not None else count
    return Chunk(first, min(p.chunk, p.vectors - first), lanes, tail)


@inlined
def classes_before(p: Any, c: int, zero: Any, rows: Any) -> int:
    """How many classes of an example lie in the chunks before one."""
    if c == p.chunks:
        return p.classes
    return c * p.chunk * lanes_of(zero) if rows is not None else c * p.chunk


@inlined
def lane_step(t: Any, rows: Any) -> int:
    """The step from one lane to the next."""
    return t.example if rows is None else t.classes


@inlined
def passes(count: int, rows: Any) -> int:
    """How many times the classes of a unit are gone through: once for each example, or once."""
    return 1 if rows is None else count


@inlined
def place_of(p: Any, t: Any, o: int, u: int, r: int, chunk: Chunk) -> Any:
    """Where a chunk of an example of a tensor begins."""
    return start_of(p, t, o, u) + (r * t.example + chunk.first * t.vector)


@inlined
def fetch_chunk(
    p: Any,
    t: Any,
    o: int,
    u: int,
    r: int,
    chunk: Chunk,
    padding: Any,
    buffer: Any,
    panel: int,
    stored: Any,
    rows: Any,
) -> None:
    """Copy a chunk of an operand to its buffer, if it cannot be loaded where it lies.

    `panel` is the address of the unit in its panel, 0 if there is none.
    """
    if panel == 0:
        fetch(t, place_of(p, t, o, u, r, chunk), chunk, lane_step(t, rows), padding, buffer, stored)


@inlined
def panel_tile(p: Any, panel: Any, chunk: Chunk, stored: Any) -> Tile:
    """A chunk of a unit that is at a place in a panel."""
    place = panel + chunk.first * p.pitch
    return Tile(place, p.pitch, chunk.full, place + chunk.full * p.pitch, 0, 0, stored)


@inlined
def operand(
    p: Any,
    t: Any,
    o: int,
    u: int,
    r: int,
    chunk: Chunk,
    buffer: Any,
    panel: int,
    stored: Any,
    rows: Any,
) -> Tile:
    """A chunk of an operand, once fetched."""
    if panel != 0:
        return panel_tile(p, pointer(panel), chunk, stored)
    ahead = t.unit if p.chunks == 1 else p.chunk * t.vector
    if rows is not None:
        ahead += AHEAD
    return tile_of(
        t, place_of(p, t, o, u, r, chunk), chunk, lane_step(t, rows), ahead, buffer, stored
    )


@inlined
def logits_panel(work: Workspace, rows: Any) -> int:
    """Where the unit is in the panel of the logits, 0 if nowhere."""
    if rows is None:
        return get_numbers(work.panels).logits
    return 0


@inlined
def labels_panel(work: Workspace, rows: Any) -> int:
    """The same for the labels."""
    if rows is None:
        return get_numbers(work.panels).labels
    return 0


@inlined
def gradient_panel(p: Any, work: Workspace, rows: Any) -> int:
    """Where the gradients of the unit are collected, 0 if nowhere: in the place of its logits."""
    if p.collected != 0:
        return logits_panel(work, rows)
    return 0


@inlined
def number_of_chunk(p: Any, o: int, u: int, c: int) -> int:
    """The number of a chunk, counted over all units."""
    return (o * p.units + u) * p.chunks + c


@inlined
def logits_buffer(p: Any, number: int, r: int, work: Workspace) -> Any:
    """Where the logits of example `r` in a chunk of that number are copied to.

    Neighbours have buffers of their own: the next chunk is copied while one is summed.
    """
    return work.logits + (number % 2 * p.group + r) * work.example


@inlined
def kept_chunk(p: Any, r: int, chunk: Chunk, work: Workspace, zero: Any) -> Tile:
    """Where the exponentials of a chunk are kept."""
    register = size_of(zero)
    start = work.exponentials + r * work.example
    if p.keep != 0:
        start = start + chunk.first * register
    return Tile(start, register, chunk.full, start + chunk.full * register, 0, 0, zero)
