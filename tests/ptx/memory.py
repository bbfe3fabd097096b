"""Memory that knows what may be read and written, and who has done so since the last barrier."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Values = np.ndarray

GAP = 4096
"""Bytes around each buffer that nobody may touch."""

WARP, SECTOR = 32, 32

# Who touched a byte last: a thread, nobody, threads of one unit (_OF_UNIT - unit), or of several.
_NOBODY, _SEVERAL, _OF_UNIT = -1, -2, -3


@dataclass
class Counts:
    """What a launch has moved and executed.

    Attributes
    ----------
    instructions
        Instructions, once for each warp that executes them.
    loaded, stored
        Bytes asked for.
    sectors
        Different sectors of 32 bytes in each access of a warp, added up.
    dram
        Bytes of the sectors that were touched, as if caches were empty and without limit.
    """

    instructions: int = 0
    loaded: int = 0
    stored: int = 0
    sectors: int = 0
    dram: int = 0


class Fault(Exception):
    """What a kernel must not do."""


class Last:
    """Who touched each byte last, and when: how many barriers that thread had passed."""

    def __init__(self, size: int) -> None:
        self.who, self.when = np.full(size, _NOBODY, np.int64), np.zeros(size, np.int64)


class Space:
    """A range of bytes and its shadow: what there is, what is initialised, who touched it.

    Accesses are ordered if one thread makes them, or if threads of one unit (a block, or a cluster
    of blocks) make them on either side of a barrier. Of two accesses that are not, at least one a
    write, the second is a race.
    """

    def __init__(self, size: int, name: str) -> None:
        self.name = name
        self.bytes = np.zeros(size, np.uint8)
        self.allowed, self.writable, self.known = (np.zeros(size, bool) for _ in range(3))
        self.forget(1)

    def forget(self, unit: int) -> None:
        """Start a launch with units of so many threads: nobody has touched anything."""
        self.unit = unit
        size = len(self.bytes)
        self.writes, self.reads = (Last(size) for _ in range(2))
        self.loads, self.stores = (np.zeros(size // SECTOR + 2, bool) for _ in range(2))
        self.counts = Counts()

    def _count(self, touched: Values, at: Values, threads: Values) -> None:
        """Count the sectors of an access, which is aligned, so that it lies within one."""
        sectors = at // SECTOR
        self.counts.sectors += len(np.unique((threads // WARP) << 40 | sectors))
        self.counts.dram += SECTOR * int(np.count_nonzero(~touched[np.unique(sectors)]))
        touched[sectors] = True

    def _check_place(self, at: Values, size: int, what: str) -> None:
        if (at % size).any():
            raise Fault(f"{self.name}: {what} of {size} bytes at a misaligned address")
        inside = (at >= 0) & (at + size <= len(self.bytes))
        if not inside.all() or not self.allowed[at].all() or not self.allowed[at + size - 1].all():
            raise Fault(f"{self.name}: {what} of {size} bytes out of bounds")

    def _units(self, who: Values) -> Values:
        return np.where(who >= 0, who // self.unit, _OF_UNIT - who)  # nobody and several: negative

    def load(self, at: Values, size: int, threads: Values, times: Values) -> Values:
        """The `size` bytes at each offset, as rows of uint8."""
        self._check_place(at, size, "read")
        places = at[:, None] + np.arange(size)
        if not self.known[places].all():
            raise Fault(f"{self.name}: read of {size} bytes that nobody has written")
        self.counts.loaded += size * len(at)
        self._count(self.loads, at, threads)
        if self.writable[at].any():
            self._note_readers(places.reshape(-1), threads.repeat(size), times.repeat(size))
        return self.bytes[places]

    def _note_readers(self, at: Values, threads: Values, times: Values) -> None:
        self._check(self.writes, at, threads, times, "read of what another thread writes")
        before, mine = self.reads.who[at], threads // self.unit
        ours = self._units(before) == mine
        fresh = (before == _NOBODY) | (before == threads) | (ours & (self.reads.when[at] < times))
        new = np.where(fresh, threads, np.where(ours, _OF_UNIT - mine, _SEVERAL))
        self.reads.who[at], self.reads.when[at] = new, times
        lost = self.reads.who[at] != new
        if not lost.any():
            return
        shared = np.isin(at, at[lost])  # what several threads read at once
        at, new, mine = at[shared], new[shared], _OF_UNIT - mine[shared]
        self.reads.who[at] = mine
        self.reads.who[at[(self.reads.who[at] != mine) | (new == _SEVERAL)]] = _SEVERAL

    def store(self, at: Values, data: Values, threads: Values, times: Values) -> None:
        """Write rows of uint8."""
        size = data.shape[1]
        self._check_place(at, size, "write")
        if not self.writable[at].all():
            raise Fault(f"{self.name}: write to read-only memory")
        places = (at[:, None] + np.arange(size)).reshape(-1)
        who, when = threads.repeat(size), times.repeat(size)
        self._check(self.writes, places, who, when, "two threads write the same place")
        self._check(self.reads, places, who, when, "write to what another thread reads")
        self.writes.who[places] = who
        if (self.writes.who[places] != who).any():
            raise Fault(f"{self.name}: race, two threads write the same place at once")
        self.writes.when[places] = when
        self.counts.stored += data.size
        self._count(self.stores, at, threads)
        self.bytes[places], self.known[places] = data.reshape(-1), True

    def _check(self, last: Last, at: Values, threads: Values, times: Values, what: str) -> None:
        who = last.who[at]
        ordered = (self._units(who) == threads // self.unit) & (last.when[at] < times)
        bad = np.flatnonzero((who != _NOBODY) & (who != threads) & ~ordered)
        if len(bad):
            pair = f"{threads[bad[0]]} and {who[bad[0]]}"
            raise Fault(f"{self.name}: race, {what} (threads {pair})")


class Memory:
    """Global memory: buffers far apart, at addresses of one's choice modulo 256."""

    def __init__(self) -> None:
        self._end = self.base = 1 << 32
        self.space = Space(0, "global memory")

    def buffer(
        self, content: Values, *, offset: int = 0, writable: bool = False, known: bool = True
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
        self._end = address + content.nbytes
        old, self.space = self.space, Space(self._end + GAP - self.base, "global memory")
        here = slice(address - self.base, self._end - self.base)
        new = {"bytes": content.reshape(-1).view(np.uint8), "allowed": True, "writable": writable,
               "known": known}  # fmt: skip
        for name, value in new.items():
            getattr(self.space, name)[: len(old.bytes)] = getattr(old, name)
            getattr(self.space, name)[here] = value
        return address

    def read(self, address: int, shape: Any, dtype: Any) -> Values:
        """A copy of what lies at an address."""
        at, size = address - self.base, int(np.prod(shape, dtype=int)) * np.dtype(dtype).itemsize
        return self.space.bytes[at : at + size].copy().view(dtype).reshape(shape)
