"""The speed of memory: a kernel that moves bytes and does nothing else.

It reads and writes what a call of ours reads and writes, on as many threads, each with an equal
share of every array. Reads go to several independent sums, so that they wait for nothing but
memory; writes go past the caches, so that no line is read in order to be overwritten.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from itertools import zip_longest
from typing import Any

import numba
import numpy as np
from numba.extending import register_jitable
from numpy.typing import NDArray

from numba_xent._cpu.compile import compile_function, digest
from numba_xent._cpu.intrinsics import (
    bits_register,
    fence,
    load,
    pointer,
    size_of,
    store,
    store_streaming,
    zeros,
)

Steps = NDArray[np.int64]
"""Rows of four numbers: the addresses of up to two arrays to read and of one to write (0 for none),
and how many bytes each of them has."""

_BYTE = np.uint8(0)


@register_jitable
def _touch(first: Any, second: Any, target: Any, at: int, total: Any) -> Any:
    """Move what lies at an offset, a register or a byte, and add what was read to a sum."""
    moved = load(first + at, total)
    total = total + moved
    if second is not None:
        other = load(second + at, total)
        total = total + other
        moved = moved | other
    if target is not None:
        store_streaming(target + at, moved)
    return total


@register_jitable
def _touch_byte(first: Any, second: Any, target: Any, at: int) -> int:
    moved = load(first + at, _BYTE)
    total = int(moved)
    if second is not None:
        other = load(second + at, _BYTE)
        total += int(other)
        moved = np.uint8(moved | other)
    if target is not None:
        store(target + at, moved)
    return total


@register_jitable
def _sum_of_lanes(register: Any) -> int:
    lanes = np.empty(16, np.int32)
    store(pointer(lanes.ctypes.data), register)
    return lanes.sum()


@register_jitable
def _stream(first: Any, second: Any, target: Any, begin: int, end: int, odd: int) -> int:
    """Move the bytes from one offset to another; registers lie `odd` bytes after their size."""
    zero = bits_register(zeros("float32", 1))
    size = size_of(zero)
    start = min(end, begin + (odd - begin) % size)
    block = start + (end - start) // (4 * size) * (4 * size)
    stop = start + (end - start) // size * size
    total = 0
    for at in range(begin, start):
        total += _touch_byte(first, second, target, at)
    a, b, c, d = zero, zero, zero, zero
    for at in range(start, block, 4 * size):
        a = _touch(first, second, target, at, a)
        b = _touch(first, second, target, at + size, b)
        c = _touch(first, second, target, at + 2 * size, c)
        d = _touch(first, second, target, at + 3 * size, d)
    for at in range(block, stop, size):
        a = _touch(first, second, target, at, a)
    for at in range(stop, end):
        total += _touch_byte(first, second, target, at)
    return total + _sum_of_lanes((a + b) + (c + d))


@register_jitable
def _fill(target: Any, begin: int, end: int, odd: int) -> None:
    """Write zeros from one offset to another."""
    zero = bits_register(zeros("float32", 1))
    size = size_of(zero)
    start = min(end, begin + (odd - begin) % size)
    stop = start + (end - start) // size * size
    for at in range(begin, start):
        store(target + at, _BYTE)
    for at in range(start, stop, size):
        store_streaming(target + at, zero)
    for at in range(stop, end):
        store(target + at, _BYTE)


@register_jitable
def _take(step: Any, task: int, tasks: int) -> int:
    """Do a thread's share of one step."""
    first, second, target, size = step[0], step[1], step[2], step[3]
    odd = -(target if target != 0 else first) % 64
    begin = size * task // tasks
    end = size * (task + 1) // tasks
    if first == 0:
        _fill(pointer(target), begin, end, odd)
        return 0
    if second == 0 and target == 0:
        return _stream(pointer(first), None, None, begin, end, odd)
    if second == 0:
        return _stream(pointer(first), None, pointer(target), begin, end, odd)
    if target == 0:
        return _stream(pointer(first), pointer(second), None, begin, end, odd)
    return _stream(pointer(first), pointer(second), pointer(target), begin, end, odd)


def _make(source: str) -> Callable[[Steps, int], int]:
    """The Python function of the kernel: its closure is what the cache knows it by."""

    def kernel(steps: Steps, tasks: int) -> int:
        _ = source
        total = 0
        for task in numba.prange(tasks):
            for i in range(len(steps)):
                total += _take(steps[i], task, tasks)
            fence()
        return total

    return kernel


@functools.cache
def _kernel(parallel: bool) -> Callable[[Steps, int], int]:
    name = f"probe_{'parallel' if parallel else 'serial'}"
    return compile_function(_make(digest(__name__)), name, parallel=parallel)


class Probe:
    """Moves the bytes of some arrays.

    Parameters
    ----------
    reads, writes : sequence of ndarray
        C-contiguous arrays; each byte is read once or written once. Arrays of one size are taken
        together, up to two that are read and one that is written, as our kernels take them.
    """

    def __init__(self, reads: Sequence[NDArray[Any]], writes: Sequence[NDArray[Any]]) -> None:
        self._arrays = [array for array in (*reads, *writes) if array.nbytes]  # kept in place
        if not all(array.flags.c_contiguous for array in self._arrays):
            raise ValueError("a probe moves C-contiguous arrays only")
        self.nbytes = sum(array.nbytes for array in self._arrays)
        steps = [
            step
            for size in sorted({array.nbytes for array in self._arrays}, reverse=True)
            for step in _steps(_addresses(reads, size), _addresses(writes, size), size)
        ]
        self._steps = np.array(steps, np.int64).reshape(-1, 4)

    def __call__(self) -> int:
        """Move all bytes and return a sum, modulo 2**32, in which each byte read counts."""
        tasks = numba.get_num_threads()
        return int(_kernel(tasks > 1)(self._steps, tasks)) % 2**32


def _addresses(arrays: Sequence[NDArray[Any]], size: int) -> list[int]:
    return [array.ctypes.data for array in arrays if array.nbytes == size]


def _steps(reads: list[int], writes: list[int], size: int) -> list[tuple[int, int, int, int]]:
    """Put arrays of one size together: two to read and one to write at a time."""
    count = max(-(-len(reads) // 2), len(writes))
    firsts, seconds = reads[:count], reads[count:]
    return list(zip_longest(firsts, seconds, writes, [size] * count, fillvalue=0))
