"""Memory of large arrays, which outlives them: what is given back is used again.

The system clears every page that a process is given. For a large gradient that takes as long as to
compute it. So its memory stays with the process when the array is gone, for the next array of about
the same size; a loop that trains allocates one such array after the other.

Nothing is withheld by that: the system is told that it may take those pages whenever it needs any
(``MADV_FREE``). Where it cannot be told, or where the address space itself is limited, no memory is
kept.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import weakref
from collections import deque
from typing import Any

import numpy as np

try:
    import resource
except ImportError:  # not a Unix: nothing is kept
    resource = None  # type: ignore[assignment]

KEPT = 2
"""Blocks that are kept at most: one gradient is often still there while the next is computed."""

_MAY_BE_TAKEN: int | None = getattr(mmap, "MADV_FREE", None)
_HUGE_PAGES: int | None = getattr(mmap, "MADV_HUGEPAGE", None)

_DOMAIN = 389047  # NumPy's own, for those who filter by it
_track = getattr(ctypes.pythonapi, "PyTraceMalloc_Track", None)
_untrack = getattr(ctypes.pythonapi, "PyTraceMalloc_Untrack", None)

# Arrays may end at any moment, on any thread: only what is atomic is done with it.
_kept: deque[mmap.mmap] = deque(maxlen=KEPT)

if hasattr(os, "register_at_fork"):
    # A child would have to copy the pages before it may write to them.
    os.register_at_fork(after_in_child=_kept.clear)


def _is_limited() -> bool:
    """Whether memory that is kept could be missing elsewhere."""
    return resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY


def _tell(what: Any, place: int, *size: int) -> None:
    """Let `tracemalloc` know of memory that comes or goes, if anybody listens."""
    if what is not None:
        what(ctypes.c_uint(_DOMAIN), ctypes.c_size_t(place), *map(ctypes.c_size_t, size))


def _keep(block: mmap.mmap, place: int) -> None:
    """Keep a block whose array is gone; the oldest one may have to go."""
    _tell(_untrack, place)
    if _is_limited():
        return
    try:
        block.madvise(_MAY_BE_TAKEN)  # type: ignore[arg-type]
    except OSError:  # a system that does not know it
        return
    _kept.append(block)


def _take(size: int) -> mmap.mmap | None:
    """A block that was kept, of that size or up to a quarter larger."""
    for _ in range(len(_kept)):
        try:
            block = _kept.popleft()
        except IndexError:  # another thread was faster
            return None
        if size <= len(block) <= size + size // 4:
            return block
        _kept.append(block)
    return None


def _map(size: int) -> mmap.mmap:
    """New pages."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    try:
        block = mmap.mmap(-1, size, flags=flags)
    except OSError:
        _kept.clear()
        try:
            block = mmap.mmap(-1, size, flags=flags)
        except OSError as error:
            raise MemoryError(f"Unable to allocate {size} bytes for an output") from error
    if _HUGE_PAGES is not None:
        with contextlib.suppress(OSError):  # a system without them
            block.madvise(_HUGE_PAGES)
    return block


def room(size: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Uninitialised memory that begins with a page.

    Parameters
    ----------
    size
        Bytes, at least 1.

    Raises
    ------
    MemoryError
        If there is none.
    """
    if resource is None or _MAY_BE_TAKEN is None:
        page = mmap.PAGESIZE
        rest = np.empty(size + page, np.uint8)
        return rest[-rest.ctypes.data % page :][:size]
    block = _take(size) or _map(size)
    array = np.frombuffer(block, np.uint8, size)
    place = array.ctypes.data
    _tell(_track, place, size)
    finalizer = weakref.finalize(array, _keep, block, place)
    finalizer.atexit = False
    return array
