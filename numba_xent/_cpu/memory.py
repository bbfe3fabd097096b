"""Strided memory of any dtype, read and written as tiles of compute-dtype registers.

A *tile* is `vectors` registers of `lanes` numbers each: number ``i`` of register ``v`` lies at
``address + v * vector + i * lane`` (bytes). Kernels work on tiles that are contiguous within a
register and in the compute dtype. A *reader* copies any other tile into a small buffer of such
registers, `stride` bytes apart, and a *writer* does the reverse; the buffer stays in L1 cache. A
register that is only partly used is filled with a padding that changes no result. Kernels may use
several registers of the machine as one, `stride` bytes in all; movers go through them one by one.

Readers and writers are compiled for one dtype each, when it is first met, and kernels call them by
their address: so kernels are compiled for compute dtypes only, and know nothing about dtypes. Only
for rows of halves there are kernels that load and store them without, see :mod:`.halves`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import types

from .compile import compile_callback, digest, inlined, jitable
from .halves import from_float, to_float
from .intrinsics import (
    align_stack,
    bits_register,
    call_at,
    convert,
    first_lane,
    lanes_of,
    load,
    load_as,
    load_part,
    load_part_as,
    pointer,
    prefetch,
    size_of,
    spread,
    store,
    store_as,
    store_part,
    store_part_as,
    zeros,
)
from .transpose import READ, WRITE, read_block, write_block
from .vector import HALVES

# A typed zero for each dtype that is read as it is; halves are read as their bits.
_STORED = {
    "float16": np.uint16(0),
    "bfloat16": np.uint16(0),
    "float32": np.float32(0),
    "float64": np.float64(0),
    "int8": np.int8(0),
    "uint8": np.uint8(0),
    "bool": np.uint8(0),
    "int32": np.int32(0),
    "int64": np.int64(0),
}
READABLE = frozenset(_STORED)
"""Names of the dtypes that kernels read where they lie; others are converted first."""

LINE = 64
"""Bytes of a cache line."""

AHEAD = 8192
"""Bytes from what is loaded to what is asked for at the same time. With nothing asked for, memory
waits while the exponentials are summed (1.5 times as slow); 2048 is too near (1.1 times)."""

_F32, _I32, _I64, _U16 = np.float32(0), np.int32(0), np.int64(0), np.uint16(0)
_READER = types.void(*[types.int64] * 7, types.float64)
_WRITER = types.void(*[types.int64] * 7)


@inlined
def _transposed_lanes(tile: Any, stored: Any, like: Any, zero: Any) -> int:
    """How many lanes of a tile can be transposed, as whole registers like `like`.

    Their numbers lie next to each other across registers, not within them. What is transposed
    takes the places of registers like `zero`.
    """
    _, _, vector, lanes, vectors = tile
    if vector == size_of(stored) and vectors > 1 and size_of(like) == size_of(zero):
        return lanes // lanes_of(like) * lanes_of(like)
    return 0


@inlined
def _ask(tile: Any, v: int, stored: Any, zero: Any) -> None:
    """Ask for what lies ahead of a register, if it belongs to a run of memory."""
    address, _, vector, _, _ = tile
    if vector == lanes_of(zero) * size_of(stored):
        prefetch(address + (v * vector + AHEAD))


@inlined
def _copy_transposed(
    tile: Any, stored: Any, buffer: Any, stride: int, like: Any, zero: Any, copy: Any, most: int
) -> int:
    """Copy what can be transposed of a tile from or to registers like `like`; returns the lanes.

    What is in the places of registers like `zero` is converted before or after. The last block
    overlaps the one before, where the width does not divide what there is.
    """
    address, lane, _, _, vectors = tile
    lanes = _transposed_lanes(tile, stored, like, zero)
    size = lanes_of(like) * lane
    width = min(most, lanes_of(like))
    while width > vectors:
        width //= 2
    for _ in range(0, lanes, lanes_of(like)):
        for i in range(0, size, LINE):
            prefetch(address + (i + AHEAD))
        v = 0
        while v < vectors:
            v = min(v, vectors - width)
            place = address + v * size_of(stored)
            copy(place, lane, stored, buffer + v * stride, stride, like, width)
            v += width
        address = address + size
        buffer = buffer + size_of(like)
    return lanes


@inlined
def _read_numbers(tile: Any, stored: Any, buffer: Any, stride: int, zero: Any) -> None:
    """Copy a tile of plain numbers, of the type of `stored`, to registers like `zero`."""
    address, lane, vector, lanes, vectors = tile
    number = size_of(first_lane(zero))
    if lanes == lanes_of(zero) and lane == size_of(stored):
        for v in range(vectors):
            _ask(tile, v, stored, zero)
            store(buffer + v * stride, load_as(address + v * vector, stored, zero))
    elif lane == size_of(stored):
        for v in range(vectors):
            value = load_part_as(address + v * vector, lanes, stored, zero)
            store_part(buffer + v * stride, value, lanes)
    else:
        for v in range(vectors):
            for i in range(lanes):
                value = load_as(address + v * vector + i * lane, stored, first_lane(zero))
                store(buffer + v * stride + i * number, value)


@inlined
def _read_halves(
    tile: Any, half: Any, buffer: Any, stride: int, zero: Any, transposed: bool
) -> None:
    """Copy a tile of halves like `half` to registers like `zero`, which may hold the bits."""
    address, lane, vector, lanes, vectors = tile
    whole = bits_register(zero)
    for v in range(vectors):
        target = buffer + v * stride
        if lanes == lanes_of(zero) and lane == size_of(_U16):
            _ask(tile, v, _U16, zero)
            bits = load_as(address + v * vector, _U16, whole)
        elif lane == size_of(_U16):
            bits = load_part_as(address + v * vector, lanes, _U16, whole)
        else:
            # The register's own place holds its bits until they are converted.
            if not transposed:
                for i in range(lanes):
                    bit = load_as(address + v * vector + i * lane, _U16, _I32)
                    store(target + i * size_of(_I32), bit)
            bits = load(target, whole)
        store(target, convert(to_float(bits, half), zero))


@inlined
def _write_numbers(tile: Any, stored: Any, buffer: Any, stride: int, zero: Any) -> None:
    """Copy registers like `zero` to a tile of plain numbers of the type of `stored`."""
    address, lane, vector, lanes, vectors = tile
    number = size_of(first_lane(zero))
    if lanes == lanes_of(zero) and lane == size_of(stored):
        for v in range(vectors):
            store_as(address + v * vector, load(buffer + v * stride, zero), stored)
    elif lane == size_of(stored):
        for v in range(vectors):
            value = load_part(buffer + v * stride, lanes, zero)
            store_part_as(address + v * vector, value, lanes, stored)
    else:
        for v in range(vectors):
            for i in range(lanes):
                value = load(buffer + v * stride + i * number, first_lane(zero))
                store_as(address + v * vector + i * lane, value, stored)


@inlined
def _write_halves(
    tile: Any, half: Any, buffer: Any, stride: int, zero: Any, transposed: bool
) -> None:
    """Copy registers like `zero` to a tile of halves like `half`, or leave the bits there."""
    address, lane, vector, lanes, vectors = tile
    for v in range(vectors):
        source = buffer + v * stride
        bits = from_float(convert(load(source, zero), _F32), half)
        if lanes == lanes_of(zero) and lane == size_of(_U16):
            store_as(address + v * vector, bits, _U16)
        elif lane == size_of(_U16):
            store_part_as(address + v * vector, bits, lanes, _U16)
        else:
            store(source, bits)
            if not transposed:
                for i in range(lanes):
                    bit = load(source + i * size_of(_I32), _I32)
                    store_as(address + v * vector + i * lane, bit, _U16)


@inlined
def _pad(buffer: Any, lanes: int, vectors: int, stride: int, padding: float, zero: Any) -> None:
    """Fill the lanes of registers that are not in use."""
    number = size_of(first_lane(zero))
    for v in range(vectors):
        for i in range(lanes, lanes_of(zero)):
            store(buffer + (v * stride + i * number), first_lane(spread(padding, zero)))


def _make_reader(compute: str, dtype: str, source: str) -> Callable[..., None]:
    stored = _STORED[dtype]
    are_halves = dtype in HALVES
    half = dtype if are_halves else HALVES[0]  # what is not run must compile, too

    def read(
        address: int,
        lane: int,
        vector: int,
        lanes: int,
        vectors: int,
        buffer: int,
        stride: int,
        padding: float,
    ) -> None:
        _ = source  # part of what the compiled function is cached by
        align_stack()
        zero = zeros(compute, 1)
        number = size_of(first_lane(zero))
        place = pointer(buffer)
        tile = (pointer(address), lane, vector, lanes, vectors)
        begin = turned = 0
        if are_halves:
            bits = bits_register(zero)
            turned = _copy_transposed(tile, _U16, place, stride, bits, zero, read_block, READ)
        else:
            begin = _copy_transposed(tile, stored, place, stride, zero, zero, read_block, READ)
        padded = padding == padding
        for i in range(begin, stride // number if padded else lanes, lanes_of(zero)):
            used = max(0, min(lanes_of(zero), lanes - i))
            tile = (pointer(address) + i * lane, lane, vector, used, vectors)
            registers = place + i * number
            if are_halves:
                _read_halves(tile, zeros(half, 1), registers, stride, zero, i < turned)
            else:
                _read_numbers(tile, stored, registers, stride, zero)
            if used < lanes_of(zero) and padded:
                _pad(registers, used, vectors, stride, padding, zero)

    return read


def _make_writer(compute: str, dtype: str, source: str) -> Callable[..., None]:
    stored = _STORED[dtype]
    are_halves = dtype in HALVES
    half = dtype if are_halves else HALVES[0]

    def write(
        address: int,
        lane: int,
        vector: int,
        lanes: int,
        vectors: int,
        buffer: int,
        stride: int,
    ) -> None:
        _ = source
        align_stack()
        zero = zeros(compute, 1)
        number = size_of(first_lane(zero))
        place = pointer(buffer)
        whole = (pointer(address), lane, vector, lanes, vectors)
        begin = turned = 0
        if are_halves:
            bits = bits_register(zero)
            turned = _transposed_lanes(whole, _U16, bits, zero)
        else:
            begin = _copy_transposed(whole, stored, place, stride, zero, zero, write_block, WRITE)
        for i in range(begin, lanes, lanes_of(zero)):
            used = min(lanes_of(zero), lanes - i)
            tile = (pointer(address) + i * lane, lane, vector, used, vectors)
            registers = place + i * number
            if are_halves:
                _write_halves(tile, zeros(half, 1), registers, stride, zero, i < turned)
            else:
                _write_numbers(tile, stored, registers, stride, zero)
        if are_halves:
            _copy_transposed(whole, _U16, place, stride, bits, zero, write_block, WRITE)

    return write


def _make_index_reader(dtype: str, source: str) -> Callable[..., None]:
    stored = _STORED[dtype]

    def read(
        address: int,
        lane: int,
        vector: int,
        lanes: int,
        vectors: int,
        buffer: int,
        stride: int,
        padding: float,
    ) -> None:
        _ = source
        labels, target = pointer(address), pointer(buffer)
        for i in range(lanes):
            store(target + i * size_of(_I64), load_as(labels + i * lane, stored, _I64))

    return read


@functools.cache
def index_reader(dtype: str) -> int:
    """The address of a compiled reader of one register's worth of integers, to int64."""
    function = _make_index_reader(dtype, digest())
    return compile_callback(function, _READER, f"read_{dtype}_as_index")


@functools.cache
def reader(compute: str, dtype: str) -> int:
    """The address of the compiled reader of a dtype into registers of a compute dtype."""
    function = _make_reader(compute, dtype, digest())
    return compile_callback(function, _READER, f"read_{dtype}_as_{compute}")


@functools.cache
def writer(compute: str, dtype: str) -> int:
    """The address of the compiled writer of registers of a compute dtype as another dtype."""
    function = _make_writer(compute, dtype, digest())
    return compile_callback(function, _WRITER, f"write_{dtype}_from_{compute}")


@jitable
def read_tile(
    t: Any,
    place: Any,
    lane: int,
    lanes: int,
    vectors: int,
    padding: float,
    buffer: Any,
    zero: Any,
) -> None:
    """Copy a tile of a tensor to a buffer of registers like `zero`.

    Unused lanes are set to `padding` (NaN: to anything).
    """
    call_at(t.mover, (place, lane, t.vector, lanes, vectors, buffer, size_of(zero), padding))


@jitable
def write_tile(
    t: Any, place: Any, lane: int, lanes: int, vectors: int, buffer: Any, zero: Any
) -> None:
    """Copy a buffer of registers like `zero` to a tile of a tensor; it may be used up."""
    call_at(t.mover, (place, lane, t.vector, lanes, vectors, buffer, size_of(zero)))


@jitable
def read_indices(t: Any, place: Any, count: int, buffer: Any) -> None:
    """Copy `count` sparse labels to int64 numbers."""
    call_at(t.mover, (place, t.example, 0, count, 1, buffer, 0, np.nan))
