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
import functools
import mmap
import os
import weakref
from collections import deque
from collections.abc import Callable
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


class _Ending(weakref.ref["np.ndarray[Any, np.dtype[np.uint8]]"]):
    """Calls back when an array is gone, and has the block that this leaves.

    All that is called back is written in C. Python code would be a place where Ctrl-C is seen, and
    an exception that is raised while an array ends is lost.
    """

    __slots__ = ("block",)
    block: mmap.mmap
    _as_parameter_ = None  # what C functions are called back with, after all their arguments


# Arrays may end at any moment, on any thread: only what is atomic is done with these two.
_kept: deque[_Ending] = deque(maxlen=KEPT)
_living: dict[object, tuple[_Ending, ...]] = {}

if hasattr(os, "register_at_fork"):
    # A child would have to copy the pages before it may write to them.
    os.register_at_fork(after_in_child=_kept.clear)


def _c_function(name: str, *arguments: Any) -> Callable[..., int] | None:
    """A function of the process itself, which is called with the interpreter's lock held."""
    function = getattr(ctypes.PyDLL(None), name, None)
    if function is not None:
        function.argtypes = arguments
    return function


if resource is not None:
    _madvise = _c_function("madvise", ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    _track = _c_function("PyTraceMalloc_Track", ctypes.c_uint, ctypes.c_size_t, ctypes.c_size_t)
    _untrack = _c_function("PyTraceMalloc_Untrack", ctypes.c_uint, ctypes.c_size_t)


def _is_limited() -> bool:
    """Whether memory that is kept could be missing elsewhere."""
    return resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY


def _watch(array: np.ndarray[Any, np.dtype[np.uint8]], block: mmap.mmap, *, keep: bool) -> None:
    """Let `tracemalloc` know of an array while it is there; afterwards, perhaps keep its block."""
    place = array.ctypes.data
    key = object()
    # Called back from the last to the first: nobody may find a block whose pages are still to be
    # given away.
    endings = [_Ending(array, functools.partial(_living.pop, key))]
    if keep and _madvise is not None:
        kept = _Ending(array, _kept.append)
        kept.block = block
        free = functools.partial(_madvise, place, len(block), _MAY_BE_TAKEN)
        endings += [kept, _Ending(array, free)]
    if _untrack is not None:
        endings.append(_Ending(array, functools.partial(_untrack, _DOMAIN, place)))
    _living[key] = tuple(endings)
    if _track is not None:
        _track(_DOMAIN, place, array.nbytes)


def _take(size: int) -> mmap.mmap | None:
    """A block that was kept, of that size or up to a quarter larger."""
    for _ in range(len(_kept)):
        try:
            ending = _kept.popleft()
        except IndexError:  # another thread was faster
            return None
        if size <= len(ending.block) <= size + size // 4:
            return ending.block
        _kept.append(ending)
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


def _may_be_kept(block: mmap.mmap) -> bool:
    """Whether the system can be told that it may take the pages of a new block."""
    try:
        block.madvise(_MAY_BE_TAKEN, 0, mmap.PAGESIZE)  # type: ignore[arg-type]
    except OSError:  # a system that does not know it
        return False
    return True


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
    if _is_limited():
        _kept.clear()
        block, keep = _map(size), False
    else:
        kept = _take(size)
        block = kept or _map(size)
        keep = kept is not None or _may_be_kept(block)
    array = np.frombuffer(block, np.uint8, size)
    _watch(array, block, keep=keep)
    return array
