"""On how many threads a kernel may run.

Where Numba's threads are not safe, a kernel runs on the thread of its caller alone, with the same
bits. That is

- in a forked process: GNU OpenMP hangs or aborts there if anybody used it before the fork;
- with the `workqueue` layer, if the process has another Python thread: two launches at once, or one
  inside another, abort the process, be they somebody else's parallel functions. A process with a
  single thread cannot make a second launch, and workqueue runs nested code on threads of its own;
- where the layer that was asked for cannot be loaded.

The layers `omp` and `tbb` take launches from any number of threads at once. Nothing here is held
during a launch, so that nothing can be left locked behind.
"""

from __future__ import annotations

import _thread
import functools
import os
import sys
import warnings
from collections.abc import Callable

import numba
from numba.core.compiler_lock import global_compiler_lock
from numba.np.ufunc import parallel

from .._process import is_forked

if hasattr(os, "register_at_fork"):
    # Forked while another thread compiles, the child would wait for that thread for ever.
    os.register_at_fork(
        before=global_compiler_lock.acquire,
        after_in_parent=global_compiler_lock.release,
        after_in_child=global_compiler_lock.release,
    )


def _one() -> int:
    return 1


@functools.cache
def _started() -> tuple[str, Callable[[], int]]:
    """The threading layer, started if it was not, and what tells the number of threads.

    That number is the caller's, who may have changed it with ``numba.set_num_threads``.
    """
    try:
        numba.get_num_threads()
    except Exception as error:  # noqa: BLE001 - Numba raises what it likes; one thread always works
        warnings.warn(
            f"Numba cannot start its threads, numba_xent runs on one: {error}",
            RuntimeWarning,
            stacklevel=2,
        )
        return "none", _one
    # Numba's own function takes two locks first, which is ten times slower.
    return numba.threading_layer(), getattr(parallel, "_get_num_threads", numba.get_num_threads)


def _is_only_thread() -> bool:
    """Whether the process has no other Python thread, whoever started it."""
    return _thread._count() == 0 and len(sys._current_frames()) == 1


def available_threads() -> int:
    """How many threads may run a kernel that is launched now by this thread."""
    if is_forked():
        return 1
    layer, count = _started()
    if layer == "workqueue" and not _is_only_thread():
        return 1
    return count()
