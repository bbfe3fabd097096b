"""Memory that knows what may be read and written, and who has done so since the last barrier."""

from __future__ import annotations

from typing import Any

import numpy as np

GAP = 4096
"""Bytes around each buffer that nobody may touch."""

SECTOR = 32
_GRAIN = 1
"""Bytes that shadow memory keeps apart: no kernel writes less."""

# Who touched a grain last: a thread, nobody, threads of one unit (_OF_UNIT - unit), or of several.
_NOBODY, _SEVERAL, _OF_UNIT = -1, -2, -3


class Fault(Exception):
    """What a kernel must not do."""


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
        grains = -(-len(self.bytes) // _GRAIN)
        self.writer, self.reader = (np.full(grains, _NOBODY, np.int64) for _ in range(2))
        self.write_time, self.read_time = (np.zeros(grains, np.int64) for _ in range(2))
        self.sectors = {
            kind: np.zeros(len(self.bytes) // SECTOR + 2, bool) for kind in ("ld", "st")
        }

    def _check_place(self, at: np.ndarray, size: int, what: str) -> None:
        if (at % size).any():
            raise Fault(f"{self.name}: {what} of {size} bytes at a misaligned address")
        inside = (at >= 0) & (at + size <= len(self.bytes))
        if not inside.all() or not self.allowed[at].all() or not self.allowed[at + size - 1].all():
            raise Fault(f"{self.name}: {what} of {size} bytes out of bounds")

    def _units(self, who: np.ndarray) -> np.ndarray:
        return np.where(who >= 0, who // self.unit, _OF_UNIT - who)  # nobody and several: negative

    def load(self, at: np.ndarray, size: int, threads: np.ndarray, times: np.ndarray) -> np.ndarray:
        """The `size` bytes at each offset, as rows of uint8."""
        self._check_place(at, size, "read")
        places = at[:, None] + np.arange(size)
        if not self.known[places].all():
            raise Fault(f"{self.name}: read of {size} bytes that nobody has written")
        if self.writable[at].any():
            grains, threads, times = _spread(at, size, threads, times)
            self._check(self.writer[grains], self.write_time[grains], threads, times,
                        "read of what another thread writes")  # fmt: skip
            before, mine = self.reader[grains], threads // self.unit
            theirs = self._units(before)
            fresh = (before == _NOBODY) | ((theirs == mine) & (self.read_time[grains] < times))
            new = np.where(theirs == mine, _OF_UNIT - mine, _SEVERAL)
            new = np.where(fresh | (before == threads), threads, new)
            self._note_readers(grains, new, mine)
            self.read_time[grains] = times
        return self.bytes[places]

    def _note_readers(self, grains: np.ndarray, new: np.ndarray, mine: np.ndarray) -> None:
        self.reader[grains] = new
        lost = self.reader[grains] != new
        if not lost.any():
            return
        shared = np.isin(grains, grains[lost])
        grains, new, mine = grains[shared], new[shared], _OF_UNIT - mine[shared]
        self.reader[grains] = mine
        self.reader[grains[(self.reader[grains] != mine) | (new == _SEVERAL)]] = _SEVERAL

    def store(
        self, at: np.ndarray, data: np.ndarray, threads: np.ndarray, times: np.ndarray
    ) -> None:
        """Write rows of uint8."""
        size = data.shape[1]
        self._check_place(at, size, "write")
        if not self.writable[at].all():
            raise Fault(f"{self.name}: write to read-only memory")
        grains, who, when = _spread(at, size, threads, times)
        self._check(self.writer[grains], self.write_time[grains], who, when,
                    "two threads write the same place")  # fmt: skip
        self._check(self.reader[grains], self.read_time[grains], who, when,
                    "write to what another thread reads")  # fmt: skip
        self.writer[grains] = who
        if (self.writer[grains] != who).any():
            raise Fault(f"{self.name}: race, two threads write the same place at once")
        self.write_time[grains] = when
        places = at[:, None] + np.arange(size)
        self.bytes[places] = data
        self.known[places] = True

    def _check(
        self, who: np.ndarray, time: np.ndarray, threads: np.ndarray, times: np.ndarray, what: str
    ) -> None:
        ordered = (self._units(who) == threads // self.unit) & (time < times)
        bad = np.flatnonzero((who != _NOBODY) & (who != threads) & ~ordered)
        if len(bad):
            pair = f"{threads[bad[0]]} and {who[bad[0]]}"
            raise Fault(f"{self.name}: race, {what} (threads {pair})")


def _spread(at: np.ndarray, size: int, threads: np.ndarray, times: np.ndarray) -> list[np.ndarray]:
    """The grains of all accesses, and the thread and the time of each."""
    n = max(1, size // _GRAIN)
    grains = (at // _GRAIN)[:, None] + np.arange(n)
    return [grains.reshape(-1), np.repeat(threads, n), np.repeat(times, n)]


class Memory:
    """Global memory: buffers far apart, at addresses of one's choice modulo 256."""

    def __init__(self) -> None:
        self._end = self.base = 1 << 32
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
        self._end = address + content.nbytes
        old, n = self.space, len(self.space.bytes)
        space = self.space = Space(self._end + GAP - self.base, "global memory")
        here = slice(address - self.base, self._end - self.base)
        new = {"bytes": content.reshape(-1).view(np.uint8), "allowed": True, "writable": writable,
               "known": known}  # fmt: skip
        for name, value in new.items():
            getattr(space, name)[:n] = getattr(old, name)
            getattr(space, name)[here] = value
        return address

    def read(self, address: int, shape: Any, dtype: Any) -> np.ndarray:
        """A copy of what lies at an address."""
        at, size = address - self.base, int(np.prod(shape, dtype=int)) * np.dtype(dtype).itemsize
        return self.space.bytes[at : at + size].copy().view(dtype).reshape(shape)
