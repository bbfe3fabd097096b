"""Outputs written past the caches.

An ordinary store to memory that is in no cache first reads what it is about to overwrite. Large
outputs are therefore collected in a small stage, which stays in L1 cache, and leave it as whole
cache lines, by stores that go to memory directly: a few at a time while the next unit is summed, so
that memory is read and written at the same time.

The stage stands for the memory from the line on in which its first byte belongs. What comes next
in memory is added behind; anything else, or a full stage, empties it first.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .compile import inlined
from .intrinsics import address_of, load, pointer, size_of, store, store_streaming, zeros

_I64, _U16 = np.int64(0), np.uint16(0)


class Stage(NamedTuple):
    """A task's stage.

    Attributes
    ----------
    numbers
        Where three int64 lie: the addresses where its contents begin and end in memory, and up to
        where they have been written.
    bytes
        Where the contents are, aligned to a register.
    room
        How many bytes fit.
    """

    numbers: Any
    bytes: Any
    room: int


@inlined
def _get(stage: Stage) -> tuple[int, int, int]:
    size = size_of(_I64)
    numbers = stage.numbers
    return load(numbers, _I64), load(numbers + size, _I64), load(numbers + 2 * size, _I64)


@inlined
def _set(stage: Stage, begin: int, end: int, written: int) -> None:
    size = size_of(_I64)
    store(stage.numbers, np.int64(begin))
    store(stage.numbers + size, np.int64(end))
    store(stage.numbers + 2 * size, np.int64(written))


@inlined
def open_stage(stage: Stage) -> None:
    """Make a stage ready."""
    _set(stage, 0, 0, 0)


@inlined
def _write_part(stage: Stage, base: int, begin: int, end: int) -> None:
    """Write a part of a line by ordinary stores; everything is a multiple of two bytes."""
    target = pointer(begin)
    for i in range(0, end - begin, size_of(_U16)):
        store(target + i, load(stage.bytes + (begin - base + i), _U16))


@inlined
def drain(stage: Stage, lines: int) -> None:
    """Write out so many of the lines that are complete."""
    line = size_of(zeros("float32", 1))
    begin, end, written = _get(stage)
    base = begin // line * line
    last = end // line * line
    if written % line != 0 and last > base:
        _write_part(stage, base, written, base + line)
        written = base + line
    stop = min(last, written + lines * line)
    if stop > written:
        target = pointer(written)
        source = stage.bytes + (written - base)
        for i in range(0, stop - written, line):
            store_streaming(target + i, load(source + i, zeros("float32", 1)))
        written = stop
    _set(stage, begin, end, written)


@inlined
def stage_for(stage: Stage, place: Any, size: int) -> Any:
    """Where on the stage to put the `size` bytes that belong at a place in memory."""
    line = size_of(zeros("float32", 1))
    address = address_of(place)
    begin, end, written = _get(stage)
    if address != end or address + size - begin // line * line > stage.room:
        drain(stage, stage.room)
        base = begin // line * line
        begin, end, written = _get(stage)
        if address == end and written % line == 0:
            # The line that is not complete goes on at the front.
            store(stage.bytes, load(stage.bytes + (written - base), zeros("float32", 1)))
            begin = written
        else:
            _write_part(stage, base, written, end)
            begin = address
            written = address
    _set(stage, begin, address + size, written)
    return stage.bytes + (address - begin // line * line)


@inlined
def close_stage(stage: Stage) -> None:
    """Write out everything; `fence` must follow."""
    line = size_of(zeros("float32", 1))
    drain(stage, stage.room)
    begin, end, written = _get(stage)
    _write_part(stage, begin // line * line, written, end)
    _set(stage, end, end, end)
