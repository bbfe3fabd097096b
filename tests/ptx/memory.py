"""Memory that knows what may be read and written, and who has done so since the last barrier."""

from __future__ import annotations

from typing import Any

import numpy as np

GAP = 4096
"""Bytes around each buffer that nobody may touch."""

_GRAIN = 1
"""Bytes that shadow memory keeps apart: no kernel writes less."""

_NOBODY, _SEVERAL = -1, -2


class Fault(Exception):
    """What a kernel must not do."""


class Space:
    """A range of bytes and its shadow: what there is, what is initialised, who touched it.

    Accesses are ordered if one thread makes them, or if threads of one block make them on either
    side of a barrier. Of two accesses that are not, at least one a write, the second is a race.
    """

    def __init__(self, size: int, name: str) -> None:
        self.name = name
        self.bytes = np.zeros(size, np.uint8)
        self.allowed = np.zeros(size, bool)
        self.writable = np.zeros(size, bool)
        self.known = np.zeros(size, bool)
        self.forget()

    def forget(self) -> None:
        """Start a launch: nobody has touched anything."""
        grains = -(-len(self.bytes) // _GRAIN)
        self.writer = np.full(grains, _NOBODY, np.int64)
        self.reader = np.full(grains, _NOBODY, np.int64)
        # The block (plus epoch) of the last access, as its only one or as one of several.
        self.write_time = np.zeros(grains, np.int64)
        self.read_time = np.zeros(grains, np.int64)
        self.read_block = np.full(grains, _NOBODY, np.int64)
        self.write_block = np.full(grains, _NOBODY, np.int64)

    def _places(self, at: np.ndarray, size: int, what: str) -> np.ndarray:
        if (at % size).any():
            raise Fault(f"{self.name}: {what} of {size} bytes at a misaligned address")
        inside = (at >= 0) & (at + size <= len(self.bytes))
        if not inside.all() or not self.allowed[at].all() or not self.allowed[at + size - 1].all():
            raise Fault(f"{self.name}: {what} of {size} bytes out of bounds")
        return at

    def load(self, at: np.ndarray, size: int, threads: np.ndarray, blocks: Any, times: Any) -> Any:
        """The `size` bytes at each offset, as rows of uint8."""
        at = self._places(at, size, "read")
        places = at[:, None] + np.arange(size)
        if not self.known[places].all():
            raise Fault(f"{self.name}: read of {size} bytes that nobody has written")
        for grain in _grains(at, size):
            self._check(grain, self.writer, self.write_block, self.write_time, threads, blocks,
                        times, "read of what another thread writes")  # fmt: skip
            # The same thread again, or another one: then it is "several" from now on.
            before = self.reader[grain]
            fresh = (before == _NOBODY) | (
                (self.read_block[grain] == blocks) & (self.read_time[grain] < times)
            )
            self.reader[grain] = np.where(fresh | (before == threads), threads, _SEVERAL)
            mixed = self.reader[grain] != np.where(fresh | (before == threads), threads, _SEVERAL)
            self.reader[grain[mixed]] = _SEVERAL
            foreign = ~fresh & (self.read_block[grain] != blocks)
            self.read_block[grain] = np.where(foreign, _SEVERAL, blocks)
            other = ~foreign & (self.read_block[grain] != blocks)
            self.read_block[grain[other]] = _SEVERAL
            self.read_time[grain] = times
        return self.bytes[places]

    def store(
        self, at: np.ndarray, data: np.ndarray, threads: np.ndarray, blocks: Any, times: Any
    ) -> None:
        """Write rows of uint8."""
        size = data.shape[1]
        at = self._places(at, size, "write")
        if not self.writable[at].all():
            raise Fault(f"{self.name}: write to read-only memory")
        for grain in _grains(at, size):
            self._check(grain, self.writer, self.write_block, self.write_time, threads, blocks,
                        times, "two threads write the same place")  # fmt: skip
            self._check(grain, self.reader, self.read_block, self.read_time, threads, blocks,
                        times, "write to what another thread reads")  # fmt: skip
            self.writer[grain] = threads
            if (self.writer[grain] != threads).any():
                raise Fault(f"{self.name}: race, two threads write the same place at once")
            self.write_block[grain] = blocks
            self.write_time[grain] = times
        places = at[:, None] + np.arange(size)
        self.bytes[places] = data
        self.known[places] = True

    def _check(
        self, grain: Any, who: Any, block: Any, time: Any, threads: Any, blocks: Any, times: Any,
        what: str,
    ) -> None:  # fmt: skip
        someone = (who[grain] != _NOBODY) & (who[grain] != threads)
        ordered = (block[grain] == blocks) & (time[grain] < times)
        bad = np.flatnonzero(someone & ~ordered)
        if len(bad):
            pair = f"{threads[bad[0]]} and {who[grain[bad[0]]]}"
            raise Fault(f"{self.name}: race, {what} (threads {pair})")


def _grains(at: np.ndarray, size: int) -> list[np.ndarray]:
    return [at // _GRAIN + i for i in range(max(1, size // _GRAIN))]


class Memory:
    """Global memory: buffers far apart, at addresses of one's choice modulo 256."""

    def __init__(self) -> None:
        self._parts: list[tuple[int, np.ndarray, bool, bool]] = []
        self._end = 1 << 32
        self.base = self._end
        self.space = Space(0, "global memory")

    def buffer(
        self, content: np.ndarray, *, offset: int = 0, writable: bool = False, known: bool = True
    ) -> int:
        """Put the bytes of a contiguous array into memory; its address is `offset` modulo 256.

        Parameters
        ----------
        content
            What the buffer holds.
        offset
            How far from a multiple of 256 it begins.
        writable
            Whether kernels may write to it.
        known
            Whether it may be read before it is written.
        """
        assert content.flags.c_contiguous
        address = -(-(self._end + GAP) // 256) * 256 + offset
        self._parts.append((address, content.reshape(-1).view(np.uint8), writable, known))
        self._end = address + content.nbytes
        self._fill()
        return address

    def _fill(self) -> None:
        old = self.space
        space = Space(self._end + GAP - self.base, "global memory")
        n = len(old.bytes)
        for name in ("bytes", "allowed", "writable", "known"):
            getattr(space, name)[:n] = getattr(old, name)
        address, content, writable, known = self._parts[-1]
        here = slice(address - self.base, address - self.base + len(content))
        space.bytes[here] = content
        space.allowed[here] = True
        space.writable[here] = writable
        space.known[here] = known
        self.space = space

    def read(self, address: int, shape: Any, dtype: Any) -> np.ndarray:
        """A copy of what lies at an address."""
        count = int(np.prod(shape, dtype=int))
        at = address - self.base
        raw = self.space.bytes[at : at + count * np.dtype(dtype).itemsize]
        return raw.copy().view(dtype).reshape(shape)
