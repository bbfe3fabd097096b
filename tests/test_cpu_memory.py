"""Readers and writers of tiles: every dtype, any strides, and not a byte beside the target."""

import ctypes
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import pytest

from numba_xent._cpu import memory
from numba_xent._cpu.vector import LANES

DTYPES = {name: np.dtype(getattr(ml_dtypes, name, name)) for name in sorted(memory.READABLE)}
FLOATS = ("float16", "bfloat16", "float32", "float64")
GUARD = 0xA5
REGISTER = 64


class Tile(NamedTuple):
    """Strides in elements, and how much of a tile is used."""

    lane: int
    vector: int
    lanes: int
    vectors: int


def tiles(full: int, distinct: bool) -> list[Tile]:
    """Contiguous, spread, reversed, interleaved and, if elements may coincide, repeated."""
    strides = [
        (1, full),
        (1, full + 3),
        (1, -full),
        (-1, full),
        (-1, -full),
        (3, 3 * full),
        (-2, -2 * full),
        (full, 1),
        (full + 1, 1),
        (-full, -1),
        (7, -1),
    ]
    if not distinct:
        strides += [(0, 1), (1, 0), (0, 0), (0, -3), (5, 0), (2, 1)]
    lanes = (1, 2, full // 2, full - 1, full, full + 1, 2 * full)
    found = itertools.starmap(
        lambda stride, n, vectors: Tile(*stride, n, vectors),
        itertools.product(strides, lanes, (0, 1, 2, 5, 19)),
    )
    return [tile for tile in found if not distinct or len(set(places(tile))) == len(places(tile))]


def places(tile: Tile) -> list[int]:
    """Where the elements of a tile lie, in elements from the first."""
    return [v * tile.vector + i * tile.lane for v in range(tile.vectors) for i in range(tile.lanes)]


def width(tile: Tile, full: int) -> int:
    """Bytes of one or two registers that hold the lanes; two in half of the cases at least."""
    return REGISTER * (2 if tile.lanes > full else 1 + tile.vectors % 2)


def compiled(address: int, integers: int, doubles: int) -> Callable[..., None]:
    """A compiled reader or writer as a Python function."""
    kinds = [ctypes.c_int64] * integers + [ctypes.c_double] * doubles
    return ctypes.CFUNCTYPE(None, *kinds)(address)


def numbers(dtype: np.dtype, n: int) -> np.ndarray:
    """Random bit patterns, or for plain floats numbers of all sizes; some are special."""
    rng = np.random.default_rng(n)
    if dtype == np.bool_:
        return rng.integers(0, 2, n).astype(np.bool_)
    if dtype.kind in "iu" or dtype.itemsize == 2:
        return rng.integers(0, 256, n * dtype.itemsize, dtype=np.uint8).view(dtype)
    values = rng.normal(size=n) * 10.0 ** rng.integers(-46, 39, n)
    values[: min(n, 6)] = [np.inf, -np.inf, np.nan, -0.0, 1e-45, 65519.99][: min(n, 6)]
    with np.errstate(over="ignore"):
        return rng.permutation(values).astype(dtype)


def converted(values: np.ndarray, dtype: Any) -> np.ndarray:
    """The values in another dtype; halves are rounded from float32."""
    with np.errstate(all="ignore"):
        if np.dtype(dtype).itemsize == 2:
            values = values.astype(np.float32)
        return values.astype(dtype)


def same(got: np.ndarray, want: np.ndarray) -> bool:
    """Whether all bits but those of NaN are equal."""
    nan = np.isnan(want)
    raw = f"u{want.itemsize}"
    return (
        got.dtype == want.dtype
        and np.array_equal(np.isnan(got), nan)
        and np.array_equal(got.view(raw)[~nan], want.view(raw)[~nan])
    )


@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize("compute", LANES)
def test_reader(compute: str, name: str) -> None:
    """What a tile holds, converted, and the padding; the tile itself and what follows stay."""
    dtype, full = DTYPES[name], LANES[compute]
    read = compiled(memory.reader(compute, name), 7, 1)
    for tile in tiles(full, distinct=False):
        at = np.array(places(tile), np.int64)
        start = 3 - min(at, default=0)
        source = numbers(dtype, int(start + max(at, default=0)) + 4)
        before = source.tobytes()
        stride = width(tile, full)
        buffer = np.full((tile.vectors + 1) * stride, GUARD, np.uint8)
        for padding in (-np.inf, 0.0):
            read(
                source.ctypes.data + int(start) * dtype.itemsize,
                tile.lane * dtype.itemsize,
                tile.vector * dtype.itemsize,
                tile.lanes,
                tile.vectors,
                buffer.ctypes.data,
                stride,
                padding,
            )
            registers = buffer.reshape(tile.vectors + 1, stride)
            got = registers[:-1].copy().view(compute)
            want = converted(source[start + at], compute).reshape(tile.vectors, tile.lanes)
            assert same(got[:, : tile.lanes].copy(), want), tile
            assert (got[:, tile.lanes :] == padding).all(), tile
            assert (registers[-1] == GUARD).all(), tile
            assert source.tobytes() == before, tile


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize("compute", LANES)
def test_writer(compute: str, name: str) -> None:
    """The numbers of the tile are written, rounded, and no byte beside or between them."""
    dtype, full = DTYPES[name], LANES[compute]
    write = compiled(memory.writer(compute, name), 7, 0)
    for tile in tiles(full, distinct=True):
        at = np.array(places(tile), np.int64)
        start = 40 - min(at, default=0)
        target = np.full((int(start + max(at, default=0)) + 40) * dtype.itemsize, GUARD, np.uint8)
        stride = width(tile, full)
        lanes = stride // np.dtype(compute).itemsize
        values = numbers(np.dtype(compute), tile.vectors * lanes)
        # What follows the used lanes and registers must not reach the target.
        buffer = np.concatenate([values, np.full(lanes, 77, compute)])
        want = target.copy()
        used = values.reshape(tile.vectors, lanes)[:, : tile.lanes].ravel()
        want.view(dtype)[start + at] = converted(used, dtype)
        write(
            target.ctypes.data + int(start) * dtype.itemsize,
            tile.lane * dtype.itemsize,
            tile.vector * dtype.itemsize,
            tile.lanes,
            tile.vectors,
            buffer.ctypes.data,
            stride,
        )
        assert same(target.view(dtype)[start + at], converted(used, dtype)), tile
        beside = np.ones(len(target), bool)
        beside.reshape(-1, dtype.itemsize)[start + at] = False
        assert (target[beside] == GUARD).all(), tile
        assert (buffer[len(values) :] == 77).all(), tile


@pytest.mark.parametrize("name", ["int32", "int64"])
def test_index_reader(name: str) -> None:
    """Class numbers become int64, and no more of them than there are lanes."""
    dtype = DTYPES[name]
    read = compiled(memory.index_reader(name), 7, 1)
    info = np.iinfo(dtype)
    source = np.array([*range(100), info.min, info.max, -1], dtype)
    for lane, lanes, start in itertools.product((1, 0, -1, 3, -6), (1, 7, 8, 16), (99, 97, 102)):
        at = np.arange(lanes) * lane + start
        if at.max() >= len(source):
            continue
        buffer = np.full(lanes + 2, 77, np.int64)
        read(
            source.ctypes.data + start * dtype.itemsize,
            lane * dtype.itemsize,
            0,
            lanes,
            1,
            buffer.ctypes.data,
            0,
            0.0,
        )
        assert buffer[:lanes].tolist() == source[at].tolist()
        assert (buffer[lanes:] == 77).all()


def test_functions_are_made_once() -> None:
    """An address stays valid, and belongs to one pair of dtypes."""
    pairs = list(itertools.product(LANES, DTYPES))
    addresses = [memory.reader(*pair) for pair in pairs]
    addresses += [memory.writer(compute, name) for compute in LANES for name in FLOATS]
    addresses += [memory.index_reader(name) for name in ("int32", "int64")]
    assert len(set(addresses)) == len(addresses)
    assert [memory.reader(*pair) for pair in pairs] == addresses[: len(pairs)]
