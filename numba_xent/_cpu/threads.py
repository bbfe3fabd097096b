"""When a kernel may run on several threads.

Numba's `workqueue` threading layer aborts the process if two Python threads launch parallel kernels
at once, and GNU OpenMP hangs or aborts in a process forked after its first parallel region. A
launch that could meet either takes the serial twin, which gives the same bits.
"""

from __future__ import annotations

import os
import threading

import numba

_busy = threading.Lock()
_forked = False


def _after_fork() -> None:
    global _busy, _forked  # noqa: PLW0603
    _busy = threading.Lock()  # the parent may have held it
    _forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def begin_parallel() -> bool:
    """Whether a parallel kernel may be launched now; if so, call :func:`end_parallel` after it."""
    if _forked or numba.get_num_threads() == 1:
        return False
    return _busy.acquire(blocking=False)


def end_parallel() -> None:
    """Let other Python threads launch parallel kernels."""
    _busy.release()
